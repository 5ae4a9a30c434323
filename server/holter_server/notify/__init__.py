"""Telling the world: deliveries are claimed from the outbox, signed, sent and written down."""
