"""The compose profile `public`: its teacher, with the toy's model, asked over TLS with a token."""

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
