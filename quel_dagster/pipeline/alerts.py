"""Send an alert when a run failed permanently: JSON to a webhook, or a log line. Off by default."""

from __future__ import annotations

import logging
from typing import Any

import httpx
from dagster import (
    DagsterRunStatus,
    DefaultSensorStatus,
    RunStatusSensorContext,
    RunStatusSensorDefinition,
    run_status_sensor,
)

from quel_dagster.adapters.retry_policy import ALERT_WEBHOOK, log_outage
from quel_dagster.errors import QuelError, SettingsError
from quel_dagster.platform.failures import run_continues
from quel_dagster.platform.runs import will_be_retried
from quel_dagster.platform.tags import JOB_ID_TAG
from quel_dagster.settings import Settings

#: accepted instead of a URL: write to this log
LOG = "log:"
ALERT_SECONDS = 10
_log = logging.getLogger("quel.alerts")


def failure_alerts(settings: Settings) -> RunStatusSensorDefinition:
    """Return the sensor that sends alerts for failed runs of every job; on when QUEL_ALERT_WEBHOOK_URL is set."""

    @run_status_sensor(
        name="failure_alerts",
        run_status=DagsterRunStatus.FAILURE,
        minimum_interval_seconds=ALERT_SECONDS,
        default_status=DefaultSensorStatus.RUNNING if settings.alert_webhook_url else DefaultSensorStatus.STOPPED,
        description="Posts every permanently failed run to QUEL_ALERT_WEBHOOK_URL. Off when that is not set.",
    )
    def alert(context: RunStatusSensorContext) -> None:
        run = context.dagster_run
        settings = Settings.of_process()
        url = settings.alert_webhook_url
        if will_be_retried(context.instance, run):
            context.log.info(f"Run {run.run_id} will be retried: no alert.")
        elif url is None:
            context.log.warning("QUEL_ALERT_WEBHOOK_URL is not set.")
        else:
            send(url.get_secret_value(), alert_for(context, settings.webserver_url))
            context.log.info(f"Sent an alert for run {run.run_id}.")

    return alert


def alert_for(context: RunStatusSensorContext, web_ui: str | None) -> dict[str, Any]:
    """Return the alert: `text` for people (chat services show it), and the facts by name.

    Args:
        web_ui: public URL of the UI; the alert leads to the page of the job, or of the run.
    """
    run = context.dagster_run
    tags = {name.removeprefix("quel/"): value for name, value in run.tags.items() if name.startswith("quel/")}
    reason = _reason(context)
    job_id = run.tags.get(JOB_ID_TAG)
    text = f"{f'Job {job_id}' if job_id else f'Run of {run.job_name}'} failed: {reason}"
    alert = {"run_id": run.run_id, "job_name": run.job_name, "reason": reason, **tags}
    if web_ui is None:
        return {"text": text, **alert}
    url = f"{web_ui.rstrip('/')}/{f'quel/jobs/{job_id}' if job_id else f'runs/{run.run_id}'}"
    return {"text": f"{text} {url}", "url": url, **alert}


def _reason(context: RunStatusSensorContext) -> str:
    """Return the message of the step that failed, else of the run."""
    for event in context.for_run_failure().get_step_failure_events():
        if run_continues(event):  # of one unit; the step that failed the run has the reasons of all
            continue
        data = event.step_failure_data
        if data.user_failure_data and data.user_failure_data.description:
            return data.user_failure_data.description
        if error := data.error:
            while error.cause:  # the outer ones are Dagster's: `Error occurred while executing op`
                error = error.cause
            return error.message.strip()
    return context.dagster_event.message or "its worker died"


def send(where: str, alert: dict[str, Any]) -> None:
    """Post an alert, or write it to the log.

    Raises:
        QuelError: the webhook refused it three times.
        SettingsError: `where` is neither an http(s) URL nor `log:`.
    """
    if where == LOG:
        _log.error(alert["text"], extra={"alert": alert})
        return
    if not where.startswith(("http://", "https://")):
        raise SettingsError("QUEL_ALERT_WEBHOOK_URL is neither an http(s) URL nor log:.")

    def post() -> None:
        httpx.post(where, json=alert, timeout=ALERT_WEBHOOK.attempt_timeout).raise_for_status()

    try:
        ALERT_WEBHOOK.call_blocking(
            post,
            retry=lambda error: isinstance(error, httpx.HTTPError),
            report=log_outage("The alert webhook", _log),
        )
    except httpx.HTTPError as error:  # leave out the URL: it may contain a secret
        status = f" with {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else ""
        raise QuelError(f"The alert webhook did not accept an alert ({type(error).__name__}{status}).") from None
