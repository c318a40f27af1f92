"""The seed's "Scaling Out" and "Resource Management" examples, each as its own program. Their lines are the seed's own;
what stands before them is the import, the start of an instance and the names that the page takes for granted, what
stands behind them looks at the result."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from tests.docs.programs import assert_succeeded, run_program

# The seed's code, line by line.

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

# What the page takes for granted.

IMPORTS = """
import os

import pointsman as serve
"""

HANDLE_REQUEST = """
def handle_request(request):
    return {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
"""

ANSWER = """
def answer_of(backend):
    client.create_endpoint(backend, backend=backend)
    return client.get_handle(backend).remote().result()
"""


def program(*parts: str, **start: object) -> str:
    """A script out of dedented parts, behind the imports and the start of an instance on a free port."""
    arguments = "".join(f", {name}={value!r}" for name, value in start.items())
    client = f'client = serve.start(http_options={{"port": 0}}{arguments})'
    return "\n".join([IMPORTS, client, HANDLE_REQUEST, ANSWER, *map(dedent, parts)])


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
    assert ended.stderr.count("CPUs") == (1 if int(ended.stdout) < 10 else 0), ended.stderr


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


def test_gpu_example_with_a_stated_gpu(tmp_path: Path) -> None:
    """With num_gpus stated the GPU example runs on a machine without one, and sees one device (EX3, IN14, RM7)."""
    ended = run_program(
        program(
            WHOLE_GPU,
            """
            assert answer_of("my_gpu_backend") == {"CUDA_VISIBLE_DEVICES": "0", "OMP_NUM_THREADS": "1"}
            """,
            num_gpus=1,
        ),
        tmp_path,
        CUDA_VISIBLE_DEVICES="",
    )
    assert_succeeded(ended)


def test_two_halves_share_one_gpu(tmp_path: Path) -> None:
    """Two backends with half a GPU each run on the same one, and the other stays free (EX3, FR1)."""
    ended = run_program(
        program(
            HALF_GPUS,
            """
            devices = {answer_of(f"my_gpu_backend_{n}")["CUDA_VISIBLE_DEVICES"] for n in (1, 2)}
            assert devices == {"0"}, devices
            """,
            WHOLE_GPU,
            """
            assert answer_of("my_gpu_backend")["CUDA_VISIBLE_DEVICES"] == "1"
            """,
            num_gpus=2,
        ),
        tmp_path,
        CUDA_VISIBLE_DEVICES="",
    )
    assert_succeeded(ended)


def test_omp_example_as_printed(tmp_path: Path) -> None:
    """An int in os.environ cannot work: the caller gets the TypeError, nothing stays registered (EX4, CB10)."""
    ended = run_program(program(OMP, 'print("not reached")'), tmp_path)
    assert ended.returncode == 1
    assert "not reached" not in ended.stdout
    assert 'os.environ["OMP_NUM_THREADS"] = parallelism' in ended.stderr
    assert "TypeError: str expected, not int" in ended.stderr
    assert "BackendStartError" in ended.stderr.splitlines()[-1], ended.stderr


def test_omp_example_raises_what_user_code_raised(tmp_path: Path) -> None:
    """The exception of the constructor is the cause of ours, and the backend is gone again (EX4, CB10)."""
    ended = run_program(
        program(
            f"""
            from pointsman.exceptions import BackendStartError
            try:
                exec({dedent(OMP)!r})
            except BackendStartError as error:
                assert type(error.__cause__) is TypeError, repr(error.__cause__)
            else:
                raise AssertionError("the example came up")
            assert client.list_backends() == {{}}
            """
        ),
        tmp_path,
    )
    assert_succeeded(ended)


def test_omp_example_with_a_string(tmp_path: Path) -> None:
    """With a string the example does what its text says (EX4, OM2)."""
    corrected = OMP.replace("MyBackend, 12", 'MyBackend, "12"').replace(
        "  client.create_backend",
        '      def __call__(self, request):\n          return os.environ["OMP_NUM_THREADS"]\n\n  client.create_backend',
    )
    ended = run_program(program(corrected, 'assert answer_of("parallel_backend") == "12"'), tmp_path)
    assert_succeeded(ended)


@pytest.mark.parametrize(("given", "seen"), [({}, "1"), ({"OMP_NUM_THREADS": "12"}, "12")])
def test_omp_variable_of_the_starting_process(tmp_path: Path, given: dict[str, str], seen: str) -> None:
    """A variable set for the process that starts the instance reaches its replicas; else it is 1 (EX5, OM1)."""
    text = program(
        f"""
        client.create_backend("b", handle_request)
        assert answer_of("b")["OMP_NUM_THREADS"] == {seen!r}
        """
    )
    assert_succeeded(run_program(text, tmp_path, **given))
