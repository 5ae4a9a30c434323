"""The answers, for OpenAPI. The wire encodes the values, so these only describe; a test holds them to real answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Number"]

Number = float | Literal["NaN", "Infinity", "-Infinity"]
Severity = Literal["info", "warning", "critical"]


class Answer(BaseModel):
    """Fields that are not listed do not exist."""

    model_config = ConfigDict(extra="forbid")


class Error(BaseModel):
    type: str
    message: str
    hint: str


class ErrorAnswer(Answer):
    error: Error


class StatusAnswer(Answer):
    status: str


class DeletedAnswer(Answer):
    deleted: str


class Run(Answer):
    id: str
    project: str
    name: str
    group: str | None
    notes: str | None
    tags: list[str]
    config: dict[str, Any]
    state: Literal["running", "finished", "failed", "stopped", "lost", "hung"]
    state_reason: str | None
    health: Literal["healthy", "warning", "critical"]
    created_at: float
    started_at: float
    finished_at: float | None
    last_seen_at: float
    due_at: float | None
    last_step: int | None
    last_step_at: float | None
    planned_steps: int | None
    steps_per_second: float | None
    attempt: int
    environment: dict[str, Any]
    open_incidents: dict[Severity, int]
    deleted_at: float | None
    deleted_because: str | None
    purging_at: float | None


class DeletedRun(Run):
    purge_at: float | None


class Writer(Answer):
    writer_id: int
    attempt: int
    name: str
    rank: int | None
    world_size: int | None
    host: str
    device: str
    pid: int | None
    last_seq: int
    last_seen_at: float
    dropped: int
    due_at: float | None
    state: Literal["running", "finished", "failed", "stopped"]
    state_reason: str | None
    finished_at: float | None


class Attempt(Answer):
    attempt: int
    key: str
    state: str
    state_reason: str | None
    started_at: float
    finished_at: float | None
    first_step: int | None


class RunDetail(Run):
    writers: list[Writer]
    attempts: list[Attempt]


class RunAnswer(Answer):
    run: Run


class RunDetailAnswer(Answer):
    run: RunDetail


class DeletedRunAnswer(Answer):
    run: DeletedRun


class DeletedAnswerOfRun(Answer):
    deleted: str
    purge_at: float | None


class ListedRun(Run):
    values: dict[str, Number | str | None]


class ListedDeletedRun(DeletedRun):
    values: dict[str, Number | str | None]


class RunsAnswer(Answer):
    runs: list[ListedDeletedRun | ListedRun]
    next: str | None
    hint: str | None


class Project(Answer):
    name: str
    runs: int
    running: int
    last_seen_at: float | None


class ProjectsAnswer(Answer):
    projects: list[Project]


class Retention(Answer):
    days: float | None
    runs: int | None
    raw_days: float | None


class RetentionOfProject(Retention):
    project: str
    of: Literal["project", "settings"]


class RetentionAnswer(Answer):
    retention: RetentionOfProject


class RetentionsAnswer(Answer):
    projects: list[RetentionOfProject]
    default: Retention
    purge_after_days: float | None


class DueRun(Answer):
    deed: Literal["delete", "thin"]
    run: str
    project: str
    name: str
    state: str
    created_at: float
    last_seen_at: float
    because: str


class DueRunsAnswer(Answer):
    runs: list[DueRun]


class CommandOrder(Answer):
    id: str
    name: str
    args: dict[str, Any]
    requested_by: str


class IncidentNotice(Answer):
    id: str
    rule: str
    kind: str
    severity: Severity
    state: str
    metric: str
    message: str
    step: int | None


class ReceiptAnswer(Answer):
    acknowledged: int
    duplicate: bool
    run_state: str
    commands: list[CommandOrder]
    incidents: list[IncidentNotice]


class CatalogueSeries(Answer):
    writer: str
    attempt: int
    rank: int | None
    count: int
    first_step: int
    last_step: int
    first_time: float
    last_time: float
    last: Number
    min: float | None
    max: float | None
    nan: int
    positive_infinity: int
    negative_infinity: int


class Metric(Answer):
    name: str
    writers: list[str]
    count: int
    first_step: int
    last_step: int
    first_time: float
    last_time: float
    last: Number
    min: float | None
    max: float | None
    non_finite: int
    series: list[CatalogueSeries]


class MetricsAnswer(Answer):
    metrics: list[Metric]


class Event(Answer):
    id: str
    time: float
    step: int | None
    kind: str
    severity: Severity
    text: str
    data: dict[str, Any]
    writer: str
    attempt: int


class EventsAnswer(Answer):
    events: list[Event]


class EventAnswer(Answer):
    event: Event


class Crowded(Answer):
    """Buckets with more non-finite points than are shown: how many there are, from which step on."""

    steps: list[int]
    counts: list[int]


class Series(Answer):
    run: str
    metric: str
    writer: str
    rank: int | None
    attempt: int
    shadowed_from: int | None
    origin: float
    steps: list[int]
    times: list[float]
    values: list[Number]
    count: int
    first_step: int | None
    last_step: int | None
    last: Number | None
    min: float | None
    max: float | None
    nan: int
    positive_infinity: int
    negative_infinity: int
    non_finite: int
    complete: bool
    bucket: float | None
    smoothed: list[Number] | None
    crowded: Crowded


class NonFiniteOfRank(Answer):
    writer: str
    rank: int | None
    steps: list[int]
    values: list[Number]


class SeriesAcrossRanks(Answer):
    run: str
    metric: str
    attempt: int
    writers: list[str]
    shadowed_from: int | None
    origin: float
    steps: list[int]
    times: list[float]
    mean: list[Number]
    min: list[Number]
    max: list[Number]
    count: list[int]
    non_finite: list[NonFiniteOfRank]


class SeriesAnswer(Answer):
    series: list[Series | SeriesAcrossRanks]
    next: str | None


class SeriesOfRunsAnswer(Answer):
    series: list[Series | SeriesAcrossRanks]


class Rank(Answer):
    writer: str
    rank: int | None
    attempt: int
    state: Literal["running", "silent", "finished", "failed", "stopped"]
    state_reason: str | None
    last_step: int | None
    lag: int | None
    step_time: float | None
    last_seen_at: float
    due_at: float | None
    non_finite: int
    dropped: int
    world_size: int | None
    host: str
    device: str
    pid: int | None


class RanksAnswer(Answer):
    ranks: list[Rank]


class Figure(Answer):
    name: str
    title: str
    section: str
    metrics: list[str]
    unit: str | None


class FiguresAnswer(Answer):
    figures: list[Figure]


class FigureAnswer(BaseModel):
    data: list[dict[str, Any]]
    layout: dict[str, Any]


class Capture(BaseModel):
    """What the agent kept for an incident, and whatever else it says of it; `event` is the id of the whole event."""

    model_config = ConfigDict(extra="allow")
    event: str
    text: str
    time: float
    step: int | None
    first_step: int | None
    last_step: int | None
    writer: str
    attempt: int


class Incident(Answer):
    id: str
    incident: str
    run: str
    run_name: str
    project: str
    rule: str
    kind: str
    severity: Severity
    metric: str
    writer: str
    rank: int | None
    state: Literal["firing", "acknowledged", "snoozed", "resolved"]
    step: int | None
    last_step: int | None
    resolved_step: int | None
    time: float
    value: Number | None
    threshold: Number | None
    baseline: Number | None
    message: str
    resolution: str | None
    advice: str
    evidence: dict[str, Any]
    actions: list[str]
    opened_at: float
    updated_at: float
    resolved_at: float | None
    acknowledged_at: float | None
    acknowledged_by: str | None
    snoozed_until: float | None
    muted: str | None
    flaps: int
    flight: Capture | None
    stacks: Capture | None


class IncidentAnswer(Answer):
    incident: Incident


class IncidentsAnswer(Answer):
    incidents: list[Incident]
    next: str | None


class CommandAnswerOfRank(Answer):
    writer: str
    state: Literal["acknowledged", "done", "failed"]
    time: float
    result: str | None
    step: int | None
    acknowledged_at: float


class Command(Answer):
    id: str
    attempt: int
    name: str
    args: dict[str, Any]
    state: Literal["requested", "delivered", "acknowledged", "done", "failed", "expired", "dry_run"]
    requested_at: float
    requested_by: str
    delivered_at: float | None
    acknowledged_at: float | None
    done_at: float | None
    step: int | None
    result: str | None
    answers: list[CommandAnswerOfRank]


class CommandAnswer(Answer):
    command: Command


class CommandsAnswer(Answer):
    commands: list[Command]


class Window(BaseModel):
    """Steps, both included; null: the incident has no step, and the window is the whole run."""

    model_config = ConfigDict(extra="allow")


class QuietHours(Answer):
    start: str
    end: str
    timezone: str
    passes: Literal["info", "warning", "critical", "nothing"]


class Policy(Answer):
    group_wait_s: float
    repeat_interval_s: float | None
    send_resolved: bool
    rate_per_minute: int | None
    quiet_hours: QuietHours | None


class Breaker(Answer):
    state: Literal["closed", "open", "half-open"]
    failures: int
    until: float | None
    last_error: str | None


class Webhook(Answer):
    id: str
    url: str
    channel: str
    name: str
    project: str | None
    types: list[str]
    min_severity: Severity
    enabled: bool
    created_at: float
    policy: Policy
    breaker: Breaker


class WebhookAnswer(Answer):
    webhook: Webhook


class NewWebhook(Webhook):
    secret: str


class WebhooksAnswer(Answer):
    webhooks: list[Webhook]


class NewWebhookAnswer(Answer):
    webhook: NewWebhook


class Attempted(BaseModel):
    time: float
    status: int | None
    error: str | None
    duration_ms: float | None = None


class Delivery(Answer):
    id: str
    webhook: str
    run: str | None
    incident: str | None
    type: str
    state: Literal["pending", "sending", "delivered", "failed", "skipped", "grouped"]
    attempts: int
    next_attempt_at: float | None
    created_at: float
    delivered_at: float | None
    last_status: int | None
    last_error: str | None
    log: list[Attempted]
    reason: str
    held: str | None
    give_up_at: float | None
    grouped_into: str | None


class DeliveryAnswer(Answer):
    delivery: Delivery


class DeliveriesAnswer(Answer):
    deliveries: list[Delivery]
    next: str | None


class Plugin(Answer):
    name: str
    source: str
    kind: Literal["check", "pack", "none"]
    error: str | None


class RulesAnswer(Answer):
    rules: list[dict[str, Any]]
    packs: list[str]
    project_rules: str | None
    version: int
    plugins: list[Plugin]
    agent_rules: str | None = None


class RulesVersion(Answer):
    project: str
    version: int
    created_at: float
    author: str
    comment: str


class RulesVersionWithText(RulesVersion):
    text: str


class RulesVersionsAnswer(Answer):
    versions: list[RulesVersion]
    next: str | None


class RulesVersionAnswer(Answer):
    version: RulesVersionWithText


class RulesCheckAnswer(Answer):
    valid: bool
    rules: int
    changed: list[str]


class Evidence(Answer):
    incident: Incident
    run: Run
    url: str
    window: Window
    series: list[Series]
    left_out: list[str]
    events: list[Event]
    commands: list[Command]
    deliveries: list[Delivery]
    rule: dict[str, Any] | None


class EvidenceAnswer(Answer):
    evidence: Evidence


class Mute(Answer):
    id: str
    project: str
    run: str | None
    rule: str
    metric: str
    until: float | None
    author: str
    comment: str
    created_at: float


class MuteAnswer(Answer):
    mute: Mute


class MutesAnswer(Answer):
    mutes: list[Mute]


class WouldBeIncident(Answer):
    rule: str
    kind: str
    severity: Severity
    metric: str
    writer: str
    step: int | None
    resolved_step: int | None
    message: str
    advice: str


class BacktestOfRun(Answer):
    run: str
    name: str
    incidents: list[WouldBeIncident]
    already: int


class BacktestAnswer(Answer):
    runs: list[BacktestOfRun]
    fired: int
    rules: dict[str, int]


class ComparisonGate(Answer):
    status: Literal["ok", "INCOMPLETE", "NOT_EXERCISED", "NOT_APPLIED", "CONFOUNDED"]
    blocks: bool
    reasons: list[str]


class ComparedRun(Answer):
    id: str
    project: str
    name: str
    seed: Any
    state: str
    last_step: int | None
    planned_steps: int | None
    commit: Any


class ComparedRuns(Answer):
    baseline: list[ComparedRun]
    candidate: list[ComparedRun]


class ConfigDifference(Answer):
    key: str
    baseline: Any
    candidate: Any
    declared: bool


class ComparisonRow(Answer):
    criterion: str
    title: str
    kind: Literal["value", "stability", "incidents", "smoothness", "speed", "memory"]
    metric: str
    baseline: Number | None
    candidate: Number | None
    difference: Number | None
    interval: list[Number] | None
    measure: Literal["difference", "ratio", "slowdown"]
    unit: str
    winner: Literal["baseline", "candidate", "tie", "undetermined"]
    assessment: Literal["better", "equivalent", "worse", "much_worse", "undetermined"]
    states: list[Literal["better", "equivalent", "worse", "much_worse"]]
    arithmetic: str
    needs: str


class ComparisonStep(Answer):
    question: str
    answer: str
    because: str


class ComparisonNodeStep(ComparisonStep):
    node: str


class ComparisonOutcome(Answer):
    id: str
    verdict: str
    say: str


class ComparisonLiteral(ComparisonOutcome):
    path: list[ComparisonNodeStep]


class ComparisonLead(Answer):
    criterion: str
    state: str
    outcomes: list[str]


class ComparisonHonest(Answer):
    verdict: Literal["accepted", "rejected", "undetermined"]
    say: str
    vetoes: list[str]
    leads: list[ComparisonLead]
    needs: list[str]


class ComparisonNode(Answer):
    id: str
    question: str
    then: str
    otherwise: str = Field(alias="else")


class ComparisonStanding(Answer):
    step: int | None
    say: str


class ComparisonKnob(Answer):
    component: str
    state: Literal["too strong", "too weak", "right", "unknown"]
    share: Number | None
    gradient_share: Number | None
    arithmetic: str
    advice: list[str]


class ComparisonFigure(Answer):
    name: str
    title: str
    figure: dict[str, Any]


class Comparison(Answer):
    criteria: str
    seed: int
    gate: ComparisonGate
    runs: ComparedRuns
    common_last_step: int | None
    entry_step: int | None
    config_differences: list[ConfigDifference]
    rows: list[ComparisonRow]
    verdict: Literal["accepted", "rejected", "undetermined", "not_comparable"]
    reason: str
    path: list[ComparisonStep]
    literal: ComparisonLiteral
    honest: ComparisonHonest
    tree: list[ComparisonNode]
    outcomes: list[ComparisonOutcome]
    standing: ComparisonStanding | None
    knobs: list[ComparisonKnob]
    figures: list[ComparisonFigure] | None = None


class ComparisonAnswer(Answer):
    comparison: Comparison
