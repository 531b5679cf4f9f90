"""Every command of the pages for operators, typed in a shell beside an installation in the shape of production."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest
import redis

from quel_dagster.adapters.intake import pause_intake, resume_intake
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.services.endpoints import Endpoints
from tests.documented_commands import ROOT, blocks, spans
from tests.production.foreground import foreground
from tests.production.servers import HANG_SECONDS, SharedDatabase, free_port
from tests.production.site import PRICE, Site, site, surroundings

pytestmark = pytest.mark.skipif(not os.environ.get("SKIP_NO_TESTS"), reason="minutes; `make production` runs it")

USAGE = 2
TOKEN = "canary-token-of-the-web-app-0123"
#: commands that are not typed here, and why; a line that no page shows any more fails the test
NOT_HERE = {
    r"make (demo|up|test|install|soak|tour|lock|licences|production|audit-dependencies).*": "a target of its own: "
    "CI runs it, or it runs this test",
    r"GEMINI_API_KEY=… docker compose .*": "needs a container engine",
    r"apt-get install .*": "changes the machine: it was run to make this test pass",
    r"python -m dagster api grpc .*": "its arguments are those of `quel up`, which runs here",
    r"python -m tests\.faults\.many_machines": "needs network namespaces; tests/faults/test_many_machines.py runs it",
    r"python -m quel_dagster\.platform\.(daemon|webserver).*": "run by `quel up`, which runs here",
    r"echo GEMINI_API_KEY=… > \.env": "needs a key of Google's",
    r"quel doctor --picture": "makes a picture with Google's API",
    r"quel demo": "embedded services alone; `make demo` in CI",
    r"export DATABASE_URL=….*": "the environment of the next line, `quel worker`, has these",
    r"redis-cli .* LMOVE jobs:processing jobs:queue LEFT RIGHT": "typed while nothing runs, by the test below",
    r"pg_dump .*|pg_restore .*|redis-cli -u \"\$REDIS_URL\" del .*": "typed by test_backup.py",
    r"DATABASE_URL=postgresql://owner@db/app quel migrate --grant-to quel_worker": "typed by test_migrate.py",
    r"make": "lists the targets",
    r"quel --install-completion": "changes the start file of the user's shell",
    r"redis-cli del": "names the command; the whole line stands further down, and is typed",
}
#: commands that stay in the foreground, with a line that they print
FOREGROUND = {
    r"(\.venv/bin/)?quel up( --path-prefix /ops)?": "Standing by: the platform runs at",
    r"QUEL_OLDER_WORKER=true quel up --port 3000": "Standing by: the platform runs at",
    r"quel up --no-workers": "Standing by: the platform runs at",
    r"quel worker": "Taking runs",
    r"quel metrics( --port 9464)?": "Metrics at http://",
}


#: a job like another one, of a production of its own, without a picture
NEW_JOB = """
    with production as (
        insert into quel_production_photo (quel_member_id, production_status, total_quantity, quel_production_path)
        select p.quel_member_id, %s::production_status_enum, p.total_quantity, p.quel_production_path
        from quel_production_photo p join quel_production_jobs j using (production_id) where j.job_id = %s
        returning production_id
    )
    insert into quel_production_jobs (production_id, job_type, stage_index, batch_index, total_images, job_input_data,
        quel_member_id, org_id, quel_production_path, job_status, error_message, failed_images, completed_at)
    select production.production_id, job_type, stage_index, batch_index, total_images, job_input_data,
        quel_member_id, org_id, quel_production_path, given.status::job_status_enum,
        case given.status when 'failed' then 'overloaded' end,
        case given.status when 'failed' then total_images else 0 end,
        case given.status when 'failed' then now() end
    from production, (select %s::text as status) given, quel_production_jobs j where j.job_id = %s
    returning job_id
"""


@dataclass
class Shell:
    """A shell of the operator, in a folder with the files that the commands name."""

    site: Site
    folder: Path
    redis: redis.Redis
    #: whole jobs; each refund takes another one
    made: list[UUID]

    @property
    def variables(self) -> Mapping[str, str]:
        return {
            **self.site.variables,
            "QUEL_WEB_API_TOKEN": TOKEN,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.folder),
        }

    @property
    def of_the_web_app(self) -> Mapping[str, str]:
        """What `quel submit` needs, because it inserts rows as the web app does: a role that may."""
        return {"DATABASE_URL": self.site.database.owner_url}

    def type(self, shown: str) -> str:
        """Type what a page shows, with this installation's names in it.

        Returns:
            what went wrong; empty when nothing did.
        """
        line = self._line(shown)
        if line == "quel resume":
            pause_intake(self.redis, "for the command that resumes it", by="test")
        done = subprocess.run(
            ["bash", "-c", line],
            env={**self.variables, **(self.of_the_web_app if "quel submit" in line else {})},
            cwd=self.folder,
            input="select 1;\n" if "psql" in line else "y\n",
            capture_output=True,
            text=True,
            check=False,
            timeout=2 * HANG_SECONDS,
        )
        resume_intake(self.redis)  # the commands that follow wait for jobs
        if done.returncode == USAGE and re.fullmatch(r"quel( [a-z]+)+", shown):
            return ""  # the text mentions the command, without what it has to be given
        wrong = done.returncode != 0 or "Traceback" in done.stderr or re.search(r'"success": ?false', done.stdout)
        return f"{line}: exit code {done.returncode}\n{done.stdout[-400:]}{done.stderr[-400:]}" if wrong else ""

    def start(self, shown: str, line: str) -> str:
        """Start a command that stays in the foreground until it prints this line: on another machine, but metrics."""
        home = Path(self.variables["QUEL_HOME"]) if "metrics" in shown else self.folder / "another"
        home.mkdir(exist_ok=True)
        words = self._line(shown).split()
        given = dict(word.split("=", 1) for word in words if re.fullmatch(r"[A-Z_]+=.*", word))
        words = words[next(place for place, word in enumerate(words) if word.endswith("quel")) + 1 :]
        try:
            with foreground(*words, environment={**self.variables, **given, "QUEL_HOME": str(home)}) as command:
                command.until(line)
                code = command.stop()
        except AssertionError as error:
            return f"{shown}: {error}"
        return f"{shown}: exit code {code}" if code else ""

    def _line(self, shown: str) -> str:
        port = self.site.stack.endpoints.webserver_port
        example = "docs/examples/fashion.json"
        line = shown
        for pattern, value in (
            (r"4892b5ac-9935-48fb-9fcf-6f1f2a0b8c11", lambda: self._job("pending")),
            (r"127\.0\.0\.1:3000", lambda: f"127.0.0.1:{port}"),
            (r"\b(3000|9464)\b", lambda: str(free_port())),
            (r"docs/examples/…", lambda: example),
            (r"<job id>|\bJOB_ID…?|\bJOB…?(\|ATTACH)?", lambda: self._job_for(shown)),
            (r"\bATTACH\b", self._attach),
            (r"\bWHO\b", lambda: self.site.database.value("select quel_email from quel_member limit 1")),
            (r"\bNAME…?", self._letter),
            (r"\bTEXT\b|…", lambda: "why"),
            (r"(?<=--moving )FILE\b", lambda: "older.env"),
            (r"\bFILE\b", lambda: example),
        ):
            line = re.sub(pattern, lambda _, value=value: str(value()), line)
        return line

    def _job_for(self, shown: str) -> UUID:
        """A job that the command can do something with."""
        if "cancel" in shown:
            return self._job("pending")
        if "retry" in shown:
            return self._job("processing" if "--force" in shown else "failed")
        return self.made.pop() if "refund" in shown else self.made[0]

    def _job(self, status: str) -> UUID:
        """Insert a job without a picture, in no queue."""
        return UUID(str(self.site.database.value(NEW_JOB, status, self.made[0], status, self.made[0])))

    def _attach(self) -> object:
        ids = "select generated_attach_ids->0 from quel_production_jobs where job_id = %s"
        return self.site.database.value(ids, self.made.pop())

    def _letter(self) -> str:
        """Make a dead letter of a job; return its name."""
        job_id = self._job("pending")
        JobQueue(self.site.settings.redis() or "").dead_letter_job(job_id, "its row could not be written")
        return str(job_id)


async def test_every_command_of_the_pages_works_as_shown(
    shared: SharedDatabase, outside: Endpoints, tmp_path: Path
) -> None:
    shown = list(dict.fromkeys(command.line for command in (*blocks(), *spans())))
    stale = [pattern for pattern in (*NOT_HERE, *FOREGROUND) if not any(re.fullmatch(pattern, line) for line in shown)]
    assert stale == [], "no page shows these any more"
    with redis.Redis.from_url(outside.redis_url) as client, surroundings(tmp_path) as around:
        client.flushall()
        more = {"web_api": True, "web_api_token": TOKEN}
        with site(tmp_path, shared, url=shared.url, redis_url=outside.redis_url, around=around, **more) as running:
            made = await running.make_jobs(9)
            shell = Shell(running, _folder(tmp_path, running), client, made)
            shown.sort(key=lambda line: "audit" not in line)  # before others insert jobs that no web app inserted
            wrong = [fault for line in shown if (fault := _try(shell, line))]
    assert wrong == [], "\n\n".join(wrong)


def _try(shell: Shell, line: str) -> str:
    for pattern, sign in FOREGROUND.items():
        if re.fullmatch(pattern, line):
            return shell.start(line, sign)
    return "" if any(re.fullmatch(pattern, line) for pattern in NOT_HERE) else shell.type(line)


def _folder(tmp_path: Path, running: Site) -> Path:
    folder = tmp_path / "operator"
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "quel").symlink_to(Path(sys.executable).with_name("quel"))
    shutil.copytree(ROOT / "docs" / "examples", folder / "docs" / "examples")
    payer = running.database.value(
        "select quel_member_id::text from quel_member order by quel_member_credit desc limit 1"
    )
    for example in (folder / "docs" / "examples").glob("*.json"):  # beside an external database a file names its payer
        example.write_text(json.dumps({**json.loads(example.read_text()), "quel_member_id": payer}))
    shutil.copy(folder / "docs" / "examples" / "simple_general.json", folder / "job.json")
    redis_parts = urlsplit(running.settings.redis() or "")
    older = {
        **{name: value for name, value in running.variables.items() if name.startswith(("SUPABASE_", "GEMINI_"))},
        "IMAGE_PER_PRICE": PRICE,
        "REDIS_HOST": redis_parts.hostname,
        "REDIS_PORT": redis_parts.port,
        "REDIS_USE_TLS": "false",
    }
    (folder / "older.env").write_text("".join(f"{name}={value}\n" for name, value in older.items()))
    return folder


def test_the_way_back_to_the_older_worker_keeps_the_order(outside: Endpoints) -> None:
    (command,) = [command.line for command in spans() if " LMOVE " in command.line]
    with redis.Redis.from_url(outside.redis_url) as client:
        client.flushall()
        client.lpush("jobs:processing", "first", "second", "third")  # as they were claimed
        for _ in range(3):
            environment = {"PATH": os.environ["PATH"], "REDIS_URL": outside.redis_url}
            subprocess.run(["bash", "-c", command], env=environment, check=True, capture_output=True)
        assert [client.rpop("jobs:queue") for _ in range(3)] == [b"first", b"second", b"third"]
