"""The compose profile `public`: its teacher, with the toy's model, asked over TLS with a token."""

import os
import re
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest
import trustme

from protos.client import TeacherClient
from protos.credentials import Credentials, read_token
from protos.errors import TeacherError
from tests.deploy.conftest import Started
from tests.deploy.test_shutdown import TOKENS, item, prompt

CONFIG = """
[server.tls]
certificate_file = "{folder}/server.pem"
key_file = "{folder}/server.key"
[engine]
device = "cpu"
threads = 1
"""


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_documented_commands_keep_the_authoritys_key_out_of_reach(tmp_path: Path):
    """Of deploy/README.md, as far as no container is asked for."""
    text = Path("deploy/README.md").read_text().partition("## Certificates and tokens")[2]
    block = re.search(r"(?:^    .+\n)+", text, re.M)
    assert block is not None
    script, up, rest = textwrap.dedent(block[0]).partition("COMPOSE_PROFILES=public docker compose")
    assert up
    assert rest
    folder = tmp_path / "deploy" / "certificates"
    folder.mkdir(parents=True)
    home = os.environ | {"HOME": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()
    check = "openssl verify -CAfile ca.pem -verify_hostname"
    for host in ("localhost", "teacher", "teacher.lab.example"):
        script += f"(cd deploy/certificates && {check} {host} server.pem)\n"
    done = subprocess.run(
        ["sh", "-ec", script], cwd=tmp_path, env=home, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == {"ca.pem", "server.pem", "server.key"}
    assert not {path for path in folder.iterdir() if path.stat().st_mode & 0o077}


async def test_a_trainer_elsewhere_comes_in_with_authority_and_token(
    compose: Started, tmp_path: Path
):
    folder = tmp_path / "certificates"
    folder.mkdir()
    config = folder / "teacher.toml"
    config.write_text(CONFIG.format(folder=folder))
    settings = {"PUBLIC_CONFIG": str(config), "CERTIFICATES": str(folder), "TEACHER_FLAGS": ""}
    model = Path("examples/digits/models/teacher").resolve()
    with compose("public", TEACHER_MODEL=str(model), **settings) as local:
        teacher = local["teacher-public"]
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        certificate = authority.issue_cert("localhost", teacher.address)
        certificate.cert_chain_pems[0].write_to_path(folder / "server.pem")
        certificate.private_key_pem.write_to_path(folder / "server.key")
        teacher.start().wait_healthy()
        address = f"{teacher.address}:50051"
        token = read_token(tmp_path / "volumes" / "tokens" / "trainer")
        trusted = Credentials(token, ca_file=folder / "ca.pem")
        async with TeacherClient(address, credentials=trusted) as client:
            scores = await client.score(await client.put_prompt(prompt()), item(1))
            assert len(scores.response_ids) == TOKENS
        for refused in (Credentials(ca_file=folder / "ca.pem"), Credentials(token)):
            client = TeacherClient(address, connect_timeout_s=2, outage_s=0, credentials=refused)
            with pytest.raises(TeacherError):
                await client.connect()
            await client.close()
        assert teacher.stop() == 0
