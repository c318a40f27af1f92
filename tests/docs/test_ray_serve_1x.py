"""The examples of Ray Serve 1.x from "Scaling Out" to "Sync and Async Handles", each as a program of its own; those
that begin alike one after the other in one.

The lines of an example are those of its page. What stands before them is the import, the start of an instance and the
names that the page takes for granted; what stands behind them looks at the result.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent, indent

import pytest

from tests.docs.programs import ENGINE, assert_succeeded, lines, program, run_program, several, told_by

# The code of Ray Serve 1.x's pages, line by line.

SCALE_OUT = """
  config = {"num_replicas": 10}
  client.create_backend("my_scaled_endpoint_backend", handle_request, config=config)

  # scale it back down...
  config = {"num_replicas": 2}
  client.update_backend_config("my_scaled_endpoint_backend", config)
"""
SCALED_OUT, SCALED_IN = SCALE_OUT.split("\n\n")

WHOLE_GPU = """
  config = {"num_gpus": 1}
  client.create_backend("my_gpu_backend", handle_request, ray_actor_options=config)
"""

HALF_GPUS = """
  half_gpu_config = {"num_gpus": 0.5}
  client.create_backend("my_gpu_backend_1", handle_request, ray_actor_options=half_gpu_config)
  client.create_backend("my_gpu_backend_2", handle_request, ray_actor_options=half_gpu_config)
"""

OMP = """
  class MyBackend:
      def __init__(self, parallelism):
          os.environ["OMP_NUM_THREADS"] = parallelism
          # Download model weights, initialize model, etc.

  client.create_backend("parallel_backend", MyBackend, 12)
"""

BATCHING = """
  class BatchingExample:
      def __init__(self):
          self.count = 0

      @serve.accept_batch
      def __call__(self, requests):
          responses = []
              for request in requests:
                  responses.append(request.json())
          return responses

  config = {"max_batch_size": 5}
  client.create_backend("counter1", BatchingExample, config=config)
  client.create_endpoint("counter1", backend="counter1", route="/increment")
"""

FIFTY_FIFTY = """
  client.create_backend("backend1", MyClass1)
  client.create_backend("backend2", MyClass2)

  client.create_endpoint("fifty-fifty", backend="backend1", route="/fifty")
  client.set_traffic("fifty-fifty", {"backend1": 0.5, "backend2": 0.5})
"""

CANARY = """
  client.create_backend("default_backend", MyClass)

  # Initially, set all traffic to be served by the "default" backend.
  client.create_endpoint("canary_endpoint", backend="default_backend", route="/canary-test")

  # Add a second backend and route 1% of the traffic to it.
  client.create_backend("new_backend", MyNewClass)
  client.set_traffic("canary_endpoint", {"default_backend": 0.99, "new_backend": 0.01})

  # Add a third backend that serves another 1% of the traffic.
  client.create_backend("new_backend2", MyNewClass2)
  client.set_traffic("canary_endpoint", {"default_backend": 0.98, "new_backend": 0.01, "new_backend2": 0.01})

  # Route all traffic to the new, better backend.
  client.set_traffic("canary_endpoint", {"new_backend": 1.0})

  # Or, if not so succesful, revert to the "default" backend for all traffic.
  client.set_traffic("canary_endpoint", {"default_backend": 1.0})
"""

ROLLOUT = """
  client.create_backend("existing_backend", MyClass)

  # Initially, all traffic is served by the existing backend.
  client.create_endpoint("incremental_endpoint", backend="existing_backend", route="/incremental")

  # Then we can slowly increase the proportion of traffic served by the new backend.
  client.create_backend("new_backend", MyNewClass)
  client.set_traffic("incremental_endpoint", {"existing_backend": 0.9, "new_backend": 0.1})
  client.set_traffic("incremental_endpoint", {"existing_backend": 0.8, "new_backend": 0.2})
  client.set_traffic("incremental_endpoint", {"existing_backend": 0.5, "new_backend": 0.5})
  client.set_traffic("incremental_endpoint", {"new_backend": 1.0})

  # At any time, we can roll back to the existing backend.
  client.set_traffic("incremental_endpoint", {"existing_backend": 1.0})
"""

AFFINITY = """
  # Specifying the shard key via an HTTP header.
  requests.get("127.0.0.1:8000/api", headers={"X-SERVE-SHARD-KEY": session_id})

  # Specifying the shard key in a call made via serve handle.
  handle = client.get_handle("api_endpoint")
  handler.options(shard_key=session_id).remote(args)
"""

SHADOWS = """
  client.create_backend("existing_backend", MyClass)

  # All traffic is served by the existing backend.
  client.create_endpoint("shadowed_endpoint", backend="existing_backend", route="/shadow")

  # Create two new backends that we want to test.
  client.create_backend("new_backend_1", MyNewClass)
  client.create_backend("new_backend_2", MyNewClass)

  # Shadow traffic to the two new backends. This does not influence the result
  # of requests to the endpoint, but a proportion of requests are
  # *additionally* sent to these backends.

  # Send 50% of all queries to the endpoint new_backend_1.
  client.shadow_traffic("shadowed_endpoint", "new_backend_1", 0.5)
  # Send 10% of all queries to the endpoint new_backend_2.
  client.shadow_traffic("shadowed_endpoint", "new_backend_2", 0.1)

  # Stop shadowing traffic to the backends.
  client.shadow_traffic("shadowed_endpoint", "new_backend_1", 0)
  client.shadow_traffic("shadowed_endpoint", "new_backend_2", 0)
"""


STATED_GPUS = "0,1" if ENGINE == "ray" else ""
"""A machine without GPUs; Ray believes in stated ones only where this variable names as many."""

# What the page takes for granted.


MY_CLASSES = """
class MyClass:
    def __init__(self):
        self.copies = 0
    def __call__(self, request):
        self.copies += request.headers.get("x-serve-shadow") == "1"
        return serve.get_current_backend_tag()
    def how_many(self, request):
        return self.copies
MyClass1 = MyClass2 = MyNewClass = MyNewClass2 = MyClass
def traffic_of(endpoint):
    return client.list_endpoints()[endpoint]["traffic"]
def answers(endpoint, count):
    handle = client.get_handle(endpoint)
    return serve.get([handle.remote() for _ in range(count)])
"""


def test_scaling_out(tmp_path: Path) -> None:
    """Ten replicas run on a machine of any size, with one warning about CPUs, and then two (EX1, EX2, RM6, SO3)."""
    ended = run_program(
        program(
            SCALED_OUT,
            """
            backend = client.status()["backends"]["my_scaled_endpoint_backend"]
            assert (backend["state"], backend["replicas_running"]) == ("RUNNING", 10), backend
            before = {replica["tag"] for replica in backend["replicas"]}
            """,
            SCALED_IN,
            """
            backend = client.status()["backends"]["my_scaled_endpoint_backend"]
            assert (backend["state"], backend["replicas_running"]) == ("RUNNING", 2), backend
            assert {replica["tag"] for replica in backend["replicas"]} < before
            assert client.get_backend_config("my_scaled_endpoint_backend").num_replicas == 2
            client.update_backend_config("my_scaled_endpoint_backend", {"num_replicas": 3})
            print(os.cpu_count())
            """,
        ),
        tmp_path,
    )
    assert_succeeded(ended)
    shared = ENGINE == "local" and int(ended.stdout) < 10
    assert ended.stderr.count("CPUs") == (1 if shared else 0), ended.stderr


def test_gpu_example_without_a_gpu(tmp_path: Path) -> None:
    """Without a GPU the GPU examples are refused at once, and nothing is registered (EX3, RM3)."""
    ended = run_program(
        program(
            """
            from pointsman.exceptions import InsufficientResourcesError
            def refused(example):
                try:
                    exec(example)
                except InsufficientResourcesError as error:
                    assert str(error).startswith("Cannot scale backend"), error
                    assert "num_gpus" in str(error), error
                    assert client.list_backends() == {}
                    return True
                return False
            """,
            f"assert refused({dedent(WHOLE_GPU)!r})",
            f"assert refused({dedent(HALF_GPUS)!r})",
        ),
        tmp_path,
        CUDA_VISIBLE_DEVICES="",
    )
    assert_succeeded(ended)


@pytest.fixture(scope="module")
def told_with_gpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What became of the examples about GPUs where two are stated."""
    whole = """
        assert answer_of("my_gpu_backend") == {"CUDA_VISIBLE_DEVICES": "0", "OMP_NUM_THREADS": "1"}
    """
    halves = """
        devices = {answer_of(f"my_gpu_backend_{n}")["CUDA_VISIBLE_DEVICES"] for n in (1, 2)}
        assert devices == {"0"}, devices
    """
    other = """
        assert answer_of("my_gpu_backend")["CUDA_VISIBLE_DEVICES"] == "1"
    """
    parts = {"whole": lines(WHOLE_GPU, whole), "halves": lines(HALF_GPUS, halves, WHOLE_GPU, other)}
    folder = tmp_path_factory.mktemp("gpus")
    return told_by(run_program(program(several(parts), num_gpus=2), folder, CUDA_VISIBLE_DEVICES=STATED_GPUS))


def test_gpu_example_with_a_stated_gpu(told_with_gpus: dict[str, str]) -> None:
    """With num_gpus stated the GPU example runs on a machine without one, and sees one device (EX3, IN14, RM7)."""
    assert told_with_gpus["whole"] == ""


def test_two_halves_share_one_gpu(told_with_gpus: dict[str, str]) -> None:
    """Two backends with half a GPU each run on the same one, and the other stays free (EX3, FR1)."""
    assert told_with_gpus["halves"] == ""


def test_omp_example_as_printed(tmp_path: Path) -> None:
    """An int in os.environ cannot work: the caller gets the TypeError, nothing stays registered (EX4, CB10)."""
    ended = run_program(program(OMP, 'print("not reached")'), tmp_path)
    assert ended.returncode == 1
    assert "not reached" not in ended.stdout
    assert 'os.environ["OMP_NUM_THREADS"] = parallelism' in ended.stderr
    assert "TypeError: str expected, not int" in ended.stderr
    own = [line for line in ended.stderr.splitlines() if not line.startswith(("[", "\x1b["))]  # less those of others
    assert "BackendStartError" in own[-1], ended.stderr


@pytest.fixture(scope="module")
def told_about_omp(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What became of examples about OMP_NUM_THREADS where the starting process has none."""
    raises = f"""
        from pointsman.exceptions import BackendStartError
        try:
            exec({dedent(OMP)!r})
        except BackendStartError as error:
            assert type(error.__cause__) is TypeError, repr(error.__cause__)
        else:
            raise AssertionError("the example came up")
        assert client.list_backends() == {{}}
    """
    corrected = OMP.replace("MyBackend, 12", 'MyBackend, "12"').replace(
        "  client.create_backend",
        '      def __call__(self, request):\n          return os.environ["OMP_NUM_THREADS"]\n\n  client.create_backend',
    )
    parts = {
        "raises": lines(raises),
        "string": lines(corrected, 'assert answer_of("parallel_backend") == "12"'),
        "default": omp_seen("1"),
    }
    return told_by(run_program(program(several(parts)), tmp_path_factory.mktemp("omp")))


def omp_seen(number: str) -> str:
    return lines(
        f"""
        client.create_backend("b", handle_request)
        assert answer_of("b")["OMP_NUM_THREADS"] == {number!r}
        """
    )


def test_omp_example_raises_what_user_code_raised(told_about_omp: dict[str, str]) -> None:
    """The exception of the constructor is the cause of ours, and the backend is gone again (EX4, CB10)."""
    assert told_about_omp["raises"] == ""


def test_omp_example_with_a_string(told_about_omp: dict[str, str]) -> None:
    """With a string the example does what its text says (EX4, OM2)."""
    assert told_about_omp["string"] == ""


def test_omp_variable_of_the_starting_process(told_about_omp: dict[str, str], tmp_path: Path) -> None:
    """A variable set for the process that starts the instance reaches its replicas; else it is 1 (EX5, OM1)."""
    assert told_about_omp["default"] == ""
    assert_succeeded(run_program(program(omp_seen("12")), tmp_path, OMP_NUM_THREADS="12"))


# Batching to Improve Performance.


def test_batching_example_as_printed(tmp_path: Path) -> None:
    """The loop is indented too far, so Python does not read it (EX6)."""
    ended = run_program(program(BATCHING), tmp_path)
    assert ended.returncode == 1
    assert "IndentationError: unexpected indent" in ended.stderr


def test_batching_example_corrected(tmp_path: Path) -> None:
    """With the indentation fixed it runs: JSON bodies of GETs come back, each to its sender, and an empty body is its
    sender's mistake, a 400; requests that come at once share batches of up to five (EX6, EX7, HE4, BA1, BA5)."""
    loop = "              for request in requests:\n                  responses"
    corrected = BATCHING.replace(loop, "          for request in requests:\n              responses")
    assert corrected != BATCHING
    text = program(
        corrected,
        """
        import httpx
        from concurrent.futures import ThreadPoolExecutor

        def increment(body):
            answer = httpx.request("GET", client.http_address + "/increment", content=body, timeout=60)
            return answer.status_code, answer.text

        with ThreadPoolExecutor(20) as pool:
            assert list(pool.map(increment, map(str, range(20)))) == [(200, str(n)) for n in range(20)]
        status, text = increment(b"")
        assert (status, "the body is not JSON" in text) == (400, True), text
        assert increment(b"[1]") == (200, "[1]")
        assert httpx.post(client.http_address + "/increment", content=b"1", timeout=60).status_code == 405
        handle = client.get_handle("counter1")
        assert serve.get([handle.remote(n) for n in range(20)]) == list(range(20))
        """,
    )
    assert_succeeded(run_program(text, tmp_path))


# Splitting Traffic Between Backends to Shadow Testing. The examples use the same names for different backends, so each
# begins with none (EX8). One that changes traffic several times is looked at after each change.


def example(*parts: str) -> str:
    return lines(MY_CLASSES, *parts)


def looked_at(example: str, checks: dict[str, str]) -> str:
    """An example with a check behind each line that begins with a key of ``checks``."""
    lines: list[str] = []
    for line in dedent(example).splitlines():
        lines.append(line)
        lines += [dedent(check) for beginning, check in checks.items() if line.startswith(beginning)]
    assert len(lines) >= len(dedent(example).splitlines()) + len(checks), "a check has no line to stand behind"
    return "\n".join(lines)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What became of each of these examples: they run one after the other, on one instance."""
    parts = (fifty_fifty, canary, incremental_rollout, affinity_example_as_printed, affinity_example_corrected)
    text = program(several({part.__name__: part() for part in (*parts, shadow_testing)}))
    return told_by(run_program(text, tmp_path_factory.mktemp("traffic")))


def fifty_fifty() -> str:
    return example(
        FIFTY_FIFTY,
        """
        import urllib.request
        listed = client.list_endpoints()["fifty-fifty"]
        assert listed["traffic"] == {"backend1": 0.5, "backend2": 0.5}, listed
        assert listed["route"] == "/fifty", listed
        hits = answers("fifty-fifty", 1000).count("backend1")
        assert 400 < hits < 600, hits
        def get():
            with urllib.request.urlopen(client.http_address + "/fifty") as answer:
                return answer.read().decode()
        assert {get() for _ in range(50)} == {"backend1", "backend2"}
        """,
    )


def test_fifty_fifty(told: dict[str, str]) -> None:
    """Two backends share an endpoint's traffic half and half, over HTTP as well (EX8, TR3, TR8)."""
    assert told["fifty_fifty"] == ""


def canary() -> str:
    checks = {
        'client.set_traffic("canary_endpoint", {"default_backend": 0.99': """
            assert traffic_of("canary_endpoint") == {"default_backend": 0.99, "new_backend": 0.01}
            assert 950 < answers("canary_endpoint", 1000).count("default_backend")
        """,
        'client.set_traffic("canary_endpoint", {"default_backend": 0.98': """
            three = {"default_backend": 0.98, "new_backend": 0.01, "new_backend2": 0.01}
            assert traffic_of("canary_endpoint") == three
            assert 930 < answers("canary_endpoint", 1000).count("default_backend")
        """,
        'client.set_traffic("canary_endpoint", {"new_backend": 1.0})': """
            assert traffic_of("canary_endpoint") == {"new_backend": 1.0}
            assert set(answers("canary_endpoint", 50)) == {"new_backend"}
        """,
        'client.set_traffic("canary_endpoint", {"default_backend": 1.0})': """
            assert traffic_of("canary_endpoint") == {"default_backend": 1.0}
            assert set(answers("canary_endpoint", 50)) == {"default_backend"}
            client.delete_backend("new_backend")
            client.delete_backend("new_backend2")
            assert set(client.list_backends()) == {"default_backend"}
        """,
    }
    return example(looked_at(CANARY, checks))


def test_canary(told: dict[str, str]) -> None:
    """A canary gets its hundredth, a second one another, then all traffic moves and moves back (EX8, TR4, TR5, TR7)."""
    assert told["canary"] == ""


def incremental_rollout() -> str:
    look = """
        seen.append((traffic_of("incremental_endpoint"), set(answers("incremental_endpoint", 200))))
    """
    return example(
        "seen = []",
        looked_at(ROLLOUT, {"client.set_traffic": look}),
        """
        both = {"existing_backend", "new_backend"}
        assert seen == [
            ({"existing_backend": 0.9, "new_backend": 0.1}, both),
            ({"existing_backend": 0.8, "new_backend": 0.2}, both),
            ({"existing_backend": 0.5, "new_backend": 0.5}, both),
            ({"new_backend": 1.0}, {"new_backend"}),
            ({"existing_backend": 1.0}, {"existing_backend"}),
        ], seen
        """,
    )


def test_incremental_rollout(told: dict[str, str]) -> None:
    """The new backend's share grows step by step to all, and one call takes it back (EX8, TR4, TR12)."""
    assert told["incremental_rollout"] == ""


API = """
import httpx as requests

client.create_backend("a", MyClass)
client.create_backend("b", MyClass)
client.create_endpoint("api_endpoint", backend="a", route="/api")
client.set_traffic("api_endpoint", {"a": 0.5, "b": 0.5})
session_id, args = "session 7", None
"""


def affinity_example_as_printed() -> str:
    url, handle = dedent(AFFINITY).strip().split("\n\n")
    return example(
        API,
        f"""
        try:
            exec({url!r})
        except requests.UnsupportedProtocol:
            pass
        else:
            raise AssertionError("a URL without a scheme was taken")
        try:
            exec({handle!r})
        except NameError as error:
            assert error.name == "handler", error
        else:
            raise AssertionError("an unknown variable was known")
        """,
    )


def test_affinity_example_as_printed(told: dict[str, str]) -> None:
    """The HTTP client refuses a URL without a scheme, and the last line names an unknown variable (EX9, EX10)."""
    assert told["affinity_example_as_printed"] == ""


def affinity_example_corrected() -> str:
    assert AFFINITY.count('"127.0.0.1:8000/api"') == AFFINITY.count("handler.") == 1
    corrected = AFFINITY.replace('"127.0.0.1:8000/api"', 'client.http_address + "/api"').replace("handler.", "handle.")
    asked = corrected.replace("requests.get", "over_http = requests.get").replace(
        "handle.options", "by_handle = handle.options"
    )
    return example(
        API,
        corrected,
        f"def ask(session_id):{indent(asked, '  ')}\n    return over_http.text, by_handle.result()",
        """
        homes = set()
        for number in range(40):
            home = client.explain("api_endpoint", shard_key=f"session {number}")["backend"]
            assert ask(f"session {number}") == (home, home), home
            homes.add(home)
        assert homes == {"a", "b"}
        """,
    )


def test_affinity_example_corrected(told: dict[str, str]) -> None:
    """With a scheme, the test's port and the right variable, both ways lead to the key's backend (EX9, EX10, SA1)."""
    assert told["affinity_example_corrected"] == ""


def shadow_testing() -> str:
    check = """
        handle = client.get_handle("shadowed_endpoint")
        shadows = client.list_endpoints()["shadowed_endpoint"]["shadows"]
        assert shadows == {"new_backend_1": 0.5, "new_backend_2": 0.1}, shadows
        tested = ("new_backend_1", "new_backend_2")
        for backend in tested:
            client.create_endpoint(backend, backend=backend)
        def copies():  # asked behind all copies that were sent
            return [client.get_handle(backend).options(method_name="how_many").remote().result() for backend in tested]
        for _ in range(5):
            assert {handle.remote().result() for _ in range(100)} == {"existing_backend"}
            copies()
    """
    return example(
        looked_at(SHADOWS, {'client.shadow_traffic("shadowed_endpoint", "new_backend_2", 0.1)': check}),
        """
        assert client.list_endpoints()["shadowed_endpoint"]["shadows"] == {}
        assert traffic_of("shadowed_endpoint") == {"existing_backend": 1.0}
        before = copies()
        assert 180 < before[0] < 320 and 15 < before[1] < 90, before
        assert {handle.remote().result() for _ in range(50)} == {"existing_backend"}
        assert copies() == before
        """,
    )


def test_shadow_testing(told: dict[str, str]) -> None:
    """Two backends get copies of half and of a tenth of the calls, users see the one that answers (EX8, SH1, SH2, SH3).

    At most a hundred calls are copied at a time, so that no copy is dropped.
    """
    assert told["shadow_testing"] == ""
