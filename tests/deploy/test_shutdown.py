"""SIGTERM as compose and Kubernetes send it, and replicas restarted under a run: the shipped commands, on the toy."""

import asyncio
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from deploy.smoke.compose_file import Mount, Service
from deploy.smoke.processes import ROOT, Network, RunningService
from protos.arrays import as_ids
from protos.client import TeacherClient
from protos.credentials import Credentials, read_token
from protos.errors import TeacherError
from protos.item import ScoreItem
from protos.prompt import Prompt
from tests.deploy.conftest import Started
from tests.deploy.rendered_chart import example, lay_out, of_kind, pods, render

WORDS = range(10, 60)
RESPONSES, TOKENS = 400, 50
STEPS = 10


def prompt() -> Prompt:
    ids = as_ids(np.random.default_rng(0).choice(WORDS, 6))
    return Prompt(ids, ids, expected_responses=RESPONSES)


def item(seed: int) -> ScoreItem:
    return ScoreItem(as_ids(np.random.default_rng(seed).choice(WORDS, TOKENS)), k=4)


async def stopped_under_load(address: str, token_file: Path, stop: Callable[[], int]) -> int:
    """`stop` while responses are under way, each of which has to be answered; its result."""
    credentials = Credentials(read_token(token_file))
    async with TeacherClient(address, outage_s=0, credentials=credentials) as teacher:
        put = await teacher.put_prompt(prompt())
        asked = [asyncio.create_task(teacher.score(put, item(n))) for n in range(RESPONSES)]
        while teacher.stats.scored_tokens == 0:
            await asyncio.sleep(0)
        # Acknowledged behind them on one line, so the teacher has read them all.
        await teacher.put_prompt(prompt())
        done = sum(task.done() for task in asked)
        assert done < RESPONSES / 2, "it was too fast to be disturbed"
        stopping = asyncio.create_task(asyncio.to_thread(stop))
        answers = await asyncio.gather(*asked)
        assert all(len(scores.response_ids) == TOKENS for scores in answers)
        return await stopping


async def test_what_compose_stops_loses_nothing(compose: Started, tmp_path: Path):
    with compose("toy") as local:
        teacher = local["teacher"].start()
        await asyncio.to_thread(teacher.wait_healthy)
        address, token = f"{teacher.address}:50051", tmp_path / "volumes" / "tokens" / "scorer"
        assert await stopped_under_load(address, token, teacher.stop) == 0
        assert "stopped" in teacher.tail(1)


async def test_what_kubernetes_deletes_loses_nothing(tmp_path: Path):
    values = example("toy")
    values["teacher"]["preStopSeconds"] = 1
    documents = render(values)
    (pod,) = (pod for name, pod in pods(documents) if name == "distil-teacher")
    (container,) = pod["containers"]
    places = lay_out(pod, documents, tmp_path / "pod")
    mounts = [Mount(str(place), path, True, False) for path, place in places.items()]
    mounts = [each for each in mounts if each.target != "/app/data"]
    service = Service(
        name="teacher",
        command=("teacher-server", *container["args"]),
        environment={"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        depends_on=(),
        healthcheck=None,
        mounts=(*mounts, Mount(str(ROOT / "examples"), "/app/data", True, False)),
        hostnames=("teacher",),
        stop_signal="SIGTERM",
        stop_grace_s=pod["terminationGracePeriodSeconds"],
    )
    teacher = RunningService(service, Network({"teacher": service}), tmp_path / "node")

    def delete() -> int:
        began_s = time.monotonic()
        hook = container["lifecycle"]["preStop"]["exec"]["command"]
        subprocess.run(hook, check=True, timeout=service.stop_grace_s)
        code = teacher.stop()
        assert time.monotonic() - began_s < service.stop_grace_s
        return code

    token = of_kind("Secret", documents)["distil-token-trainer"]["stringData"]["token"]
    (tmp_path / "token").write_text(token)
    address = f"{teacher.address}:50051"
    try:
        teacher.start()
        while not await serving(address, token):
            assert teacher.exit_code is None, teacher.tail()
            await asyncio.sleep(0.2)
        assert await stopped_under_load(address, tmp_path / "token", delete) == 0
    finally:
        teacher.kill()


async def serving(address: str, token: str) -> bool:
    client = TeacherClient(address, outage_s=0, connect_timeout_s=2, credentials=Credentials(token))
    try:
        async with client:
            return True
    except TeacherError:
        return False


def metrics(run: Path) -> list[dict[str, float]]:
    """Of the optimizer steps so far; a line that is being written is no step."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    read = [json.loads(line) for line in lines if line.endswith("\n")]
    return [line for line in read if line["step"]]  # step 0 is the evaluation before


def wait_for_step(trainer: RunningService, run: Path, step: int) -> None:
    while len(metrics(run)) < step:
        assert trainer.exit_code is None, trainer.tail()
        time.sleep(0.05)


def test_replicas_restarted_one_after_the_other_cost_a_run_nothing_but_time(
    compose: Started, tmp_path: Path
):
    run = tmp_path / "runs" / "multi-1"
    with compose("multi", TOY_STEPS=str(STEPS)) as local:
        for replica in ("teacher", "teacher-2"):
            local[replica].start().wait_healthy()
        trainer = local["trainer-1"].start()
        for number, replica in enumerate(("teacher-2", "teacher"), start=1):
            wait_for_step(trainer, run, 2 * number)
            assert local[replica].stop() == 0
            local[replica].start().wait_healthy()
        while trainer.exit_code is None:
            time.sleep(0.1)
        assert trainer.exit_code == 0, trainer.tail()
    steps = metrics(run)
    assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
    assert all(step["rollout/dropped"] == 0 for step in steps)
    assert (run / "report.html").exists()
