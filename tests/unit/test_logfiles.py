"""Logs of other tools become the same rows, whatever they were written as."""

from __future__ import annotations

import base64
import contextlib
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holter.logfiles import LogFile, Row, Unreadable, read_log
from holter.logfiles.event_files import read_events
from holter.logfiles.plain_text import read_lines

# What tensorboardX 2.6.5 wrote: train/loss 2.5, 2.25, NaN and lr 0.001 at steps 0 to 2, at 1,700,000,000 s and later.
EVENTS = base64.b64decode(
    "GAAAAAAAAACjf0siCY3Vm5mRw9pBGg1icmFpbi5FdmVudDoyWp2+bh4AAAAAAAAA2dwSMgkAAABA/FTZQSoTChEKCnRyYWluL2xvc3MVAAAgQPH6"
    "N0wWAAAAAAAAAE9hvigJAAAAQPxU2UEqCwoJCgJschVvEoM6MxG6yCAAAAAAAAAAKe2pUAkAAEBA/FTZQRABKhMKEQoKdHJhaW4vbG9zcxUAABBA"
    "mbBZbRgAAAAAAAAAo39LIgkAAEBA/FTZQRABKgsKCQoCbHIVbxKDOgCobcAgAAAAAAAAACntqVAJAACAQPxU2UEQAioTChEKCnRyYWluL2xvc3MV"
    "AADAfzlAljQYAAAAAAAAAKN/SyIJAACAQPxU2UEQAioLCgkKAmxyFW8Sgzqb2RdG"
)
LR = 0.0010000000474974513  # as a float32


def written(folder: Path, name: str, content: str | bytes) -> LogFile:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_log(path)


def unreadable(folder: Path, name: str, content: str | bytes) -> Unreadable:
    with pytest.raises(Unreadable) as caught:
        written(folder, name, content)
    return caught.value


def steps_and_values(log: LogFile) -> list[tuple[int, dict[str, float]]]:
    return [(row.step, row.values) for row in log.rows]


def test_a_table_has_gaps_and_keeps_nan(tmp_path: Path) -> None:
    """An empty cell was not logged; "nan" and "inf" were. Words are no metrics."""
    log = written(
        tmp_path, "metrics.csv", "epoch,step,train_loss,val_loss,note\n0,49,2.5,,a\n0,49,,inf,b\n1,99,nan,,c\n"
    )
    assert log.format == "csv"
    assert [row.step for row in log.rows] == [49, 49, 99]
    assert log.rows[1].values == {"epoch": 0.0, "val_loss": math.inf}
    assert math.isnan(log.rows[2].values["train_loss"])
    assert [(first, batch.metrics) for first, batch in log.batches()] == [
        (0, ("epoch", "train_loss")),
        (1, ("epoch", "val_loss")),
        (2, ("epoch", "train_loss")),
    ]


def test_columns_of_ultralytics_have_spaces_and_only_an_epoch(tmp_path: Path) -> None:
    log = written(tmp_path, "results.csv", "  epoch,  train/box_loss,  val/box_loss\n 1, 1.5, 1.6\n 2, 1.4, 1.5\n")
    assert steps_and_values(log)[1] == (2, {"epoch": 2.0, "train/box_loss": 1.4, "val/box_loss": 1.5})


def test_a_table_without_a_step_counts_its_rows(tmp_path: Path) -> None:
    log = written(tmp_path, "log.tsv", "loss\tlr\n2\t1\n1\t1\n")
    assert steps_and_values(log) == [(0, {"loss": 2.0, "lr": 1.0}), (1, {"loss": 1.0, "lr": 1.0})]


def test_a_time_column_becomes_the_rows_time(tmp_path: Path) -> None:
    log = written(tmp_path, "history.csv", "_step,_timestamp,loss\n5,1700000000.5,2\n")
    assert log.rows == [Row(5, {"loss": 2.0}, 1700000000.5)]


def test_holters_own_export_is_put_together_again(tmp_path: Path) -> None:
    """It goes metric by metric; a step's points are one row again, each writer's for itself."""
    head = "run,attempt,writer,metric,step,time,value\n"
    body = "r,1,rank0,loss,1,10.0,2.5\nr,1,rank0,loss,2,11.0,NaN\nr,1,rank0,lr,1,10.0,0.1\nr,1,rank1,loss,1,10.5,2.6\n"
    rows = written(tmp_path, "export.csv", head + body).rows
    assert rows[0] == Row(1, {"loss": 2.5, "lr": 0.1}, 10.0, "rank0")
    assert rows[1] == Row(1, {"loss": 2.6}, 10.5, "rank1")
    assert math.isnan(rows[2].values["loss"])
    lines = '{"run":"r","attempt":1,"writer":"rank0","metric":"loss","step":2,"time":11.0,"value":"NaN"}\n'
    assert math.isnan(written(tmp_path, "export.jsonl", lines).rows[0].values["loss"])


def test_a_trainer_state_is_its_log_history(tmp_path: Path) -> None:
    history = [
        {"loss": 2.5, "learning_rate": 1e-4, "epoch": 0.1, "step": 10},
        {"eval_loss": float("nan"), "epoch": 0.1, "step": 10},
    ]
    log = written(tmp_path, "trainer_state.json", json.dumps({"best_metric": None, "log_history": history}))
    assert steps_and_values(log)[0] == (10, {"loss": 2.5, "learning_rate": 1e-4, "epoch": 0.1})
    assert math.isnan(log.rows[1].values["eval_loss"])


def test_json_lines_may_be_nested_and_cut_off(tmp_path: Path) -> None:
    """A training that was killed leaves half a line, which says nothing against the others."""
    log = written(tmp_path, "log.jsonl", '{"step": 1, "train": {"loss": "Infinity"}, "ok": true}\n{"step": 2, "trai')
    assert steps_and_values(log) == [(1, {"train/loss": math.inf})]
    assert "line 1" in unreadable(tmp_path, "bad.jsonl", 'nothing\n{"step": 1}\n').message


def test_an_event_file_as_tensorboardx_writes_it(tmp_path: Path) -> None:
    log = written(tmp_path, "events.out.tfevents.1700000000.host", EVENTS)
    assert log.format == "tensorboard"
    assert log.rows[:2] == [
        Row(0, {"train/loss": 2.5, "lr": LR}, 1700000000.0),
        Row(1, {"train/loss": 2.25, "lr": LR}, 1700000001.0),
    ]
    assert math.isnan(log.rows[2].values["train/loss"])
    assert read_log(tmp_path).rows[1] == log.rows[1]  # the folder of it


def test_an_event_file_that_was_cut_off_keeps_its_whole_records() -> None:
    assert [row.step for row in read_events(EVENTS[:-20])] == [0, 1, 2]
    assert [row.step for row in read_events(EVENTS[:-60])] == [0, 1]


def test_a_damaged_event_file_is_named_so(tmp_path: Path) -> None:
    damaged = bytearray(EVENTS)
    damaged[40] ^= 1  # in the length of the second frame
    assert "damaged at byte 40" in unreadable(tmp_path, "events", bytes(damaged)).message


@given(st.binary(max_size=200))
def test_no_bytes_make_the_event_reader_fail_otherwise(noise: bytes) -> None:
    for data in (noise, EVENTS[:40] + noise, EVENTS[:56] + noise):
        try:
            assert all(isinstance(row.step, int) for row in read_events(data))
        except Unreadable:
            continue


@pytest.mark.parametrize(
    ("line", "step", "values"),
    [
        ("Step 1000 | Loss: 2.5 | Grad norm: 0.8", 1000, {"Loss": 2.5, "Grad norm": 0.8}),
        ("step 0: train loss 4.2655, val loss 4.2578", 0, {"train loss": 4.2655, "val loss": 4.2578}),
        ("iter 100: loss 2.34, time 23.45ms, mfu 1.20%", 100, {"loss": 2.34, "time": 23.45, "mfu": 1.2}),
        ("step:100/1750 val_loss:3.2761 step_avg:123.4ms", 100, {"val_loss": 3.2761, "step_avg": 123.4}),
        ("| epoch   1 |   200/ 1327 batches | lr 20.00 | loss  9.09 |", 1, {"lr": 20.0, "loss": 9.09}),
        ("12/12 - 1s - loss: 0.62 - val_loss: 0.52", 0, {"loss": 0.62, "val_loss": 0.52}),
        ("Epoch [2][50/330] lr: 2.00e-02, loss: 1.65", 380, {"lr": 0.02, "loss": 1.65}),
        ("\x1b[32m[INFO]\x1b[0m step=12 loss=3.14 lr=3e-4", 12, {"loss": 3.14, "lr": 3e-4}),
        ("Epoch 3: 100%|##| 50/50 [00:12<00:00,  4.12it/s, loss=0.345]", 3, {"it/s": 4.12, "loss": 0.345}),
        (" iteration  10/  100 | lm loss: 1.04E+01 | number of nan iterations:   0 |", 10, {"lm loss": 10.4}),
    ],
)
def test_lines_that_trainings_print(line: str, step: int, values: dict[str, float]) -> None:
    (row,) = read_lines(f"starting\n{line}\nSaved checkpoint at step 100 in 3.2 s\n")
    assert row.step == step
    assert {name: row.values[name] for name in values} == values
    assert not any(math.isnan(value) for value in row.values.values())


def test_the_plans_own_lines() -> None:
    (row,) = read_lines("Step 25000| Total: NaN | CE: NaN | Spectrum: NaN | Precursor: NaN")
    assert row.step == 25000
    assert list(row.values) == ["Total", "CE", "Spectrum", "Precursor"]
    assert all(math.isnan(value) for value in row.values.values())


def test_a_printed_mapping_is_read() -> None:
    """The parts of an epoch are no steps; rows are counted instead."""
    rows = read_lines(
        "{'loss': 2.3, 'grad_norm': nan, 'epoch': 0.01}\n{'loss': 2.2, 'grad_norm': 1.0, 'epoch': 0.02}\n"
    )
    assert [row.step for row in rows] == [0, 1]
    assert rows[1].values == {"loss": 2.2, "grad_norm": 1.0, "epoch": 0.02}


@given(st.text(max_size=300))
def test_no_text_makes_the_line_reader_fail_otherwise(text: str) -> None:
    with contextlib.suppress(Unreadable):
        assert read_lines(text)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.csv", "", "empty"),
        ("words.csv", "a,b\nx,y\n", "no numbers"),
        ("headless.csv", "1,2\n3,4\n", "does not name columns"),
        ("config.json", '{"a": 1}', "log_history"),
        ("broken.json", "{", "no JSON"),
        ("model.pt", b"\x80\x02\xff\xfe", "neither text nor"),
        ("notes.txt", "nothing here\n", "no line of it"),
    ],
)
def test_what_is_no_log_is_said(tmp_path: Path, name: str, content: str | bytes, words: str) -> None:
    error = unreadable(tmp_path, name, content)
    assert words in error.message


def test_a_file_that_is_not_there_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="No such file"):
        read_log(tmp_path / "nowhere.csv")
    with pytest.raises(Unreadable, match="no event files"):
        read_log(tmp_path)
