"""The examples of docs/console-api.md work, one after the other."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.conftest import leaves_no_process, start_client

PAGE = Path(__file__).parents[2] / "docs/console-api.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def answer(request):
    return "v"


def test_each_curl_line_of_the_page_works(tmp_path):
    """I paste the page's lines into my shell, in their order, and each does what it says (AD1, AD5, AD7)."""
    with leaves_no_process(), start_client("local", console_port=0) as client:
        for tag in ("v1", "v2"):
            client.create_backend(tag, answer)
        client.create_endpoint("rank", backend="v1", route="/rank")
        lines = "".join(BLOCK.findall(PAGE.read_text()))
        lines = lines.replace("http://127.0.0.1:8070", client.console_address)
        made = "$(pointsman token create my-script --role operate --ttl 3600)"
        assert lines.count(made) == 1
        lines = lines.replace(made, client.create_token("my-script", "operate", ttl_s=3600))
        ended = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", lines], cwd=tmp_path, capture_output=True, text=True, timeout=100
        )
        assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
        assert '"flows":[{"from":"v1","to":"v2","share":0.05' in ended.stdout
        assert '"changes":[]' in ended.stdout
        assert client.get_backend_config("v1").max_queued_queries == 500
        assert [change["by"] for change in client.traffic_history("rank")[1:]] == ["token my-script"] * 2
