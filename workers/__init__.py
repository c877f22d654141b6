"""Celery: it carries the bell from the publisher to the engine, one task for one attempt."""
