"""Root of the workers: the Celery object with its tasks and its beat."""

import os

from app.broker import SWEEP, SYSTEM, make_celery
from app.settings import get_settings
from workers import tasks, transport

settings = get_settings()
if "CELERY_CUSTOM_WORKER_POOL" in os.environ:
    transport.install()  # made for our pool; Celery's own pools keep Celery's own transport
app = make_celery(settings.redis_url)
tasks.register(app)

app.conf.beat_schedule = {
    "sweep": {
        "task": SWEEP,
        "schedule": settings.sweep_interval,
        # A sweep that nobody took in time is of no use: the next one sees more.
        "options": {"queue": SYSTEM, "expires": max(settings.sweep_interval * 3, 3)},
    }
}
