"""Our drivers on the stand-in: both were written from uapi.md without sight of each other and meet at the ABI."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("caches", ["0", "1"])
@pytest.mark.parametrize("device", ["rocket", "rknpu"])
def test_the_demonstration_says_what_the_simulator_says(stand_in, device, caches):
    """With caches a forgotten synchronisation would show; no buffer is made after the first invoke."""
    server = stand_in(TEFLON_SHIM_CACHES=caches, TEFLON_SHIM_STRICT="1", TEFLON_CACHE_DIR="off")
    command = [sys.executable, "classification.py", "--runs", "3", "--device"]
    seen = [server.run([*command, name], cwd=ROOT).stdout.splitlines() for name in (device, "simulator")]
    labels = [[line for line in lines if line[:1].isdigit()] for lines in seen]
    assert labels[0] == labels[1] and len(labels[0]) == 5
    server.settled()
    calls = [line for line in server.lines() if "#1 " in line]
    submits = [index for index, line in enumerate(calls) if " SUBMIT " in line]
    assert len(submits) >= 3
    assert not [line for line in server.lines() if line.startswith("# ")], "strict mode has nothing to say"
    steady = calls[submits[0] : submits[-1]]
    assert not [
        line for line in steady if "CREATE" in line or "mmap" in line or "DESTROY" in line or "GEM_CLOSE" in line
    ]


@pytest.mark.parametrize("device", ["rocket", "rknpu"])
def test_mobilenet_v1_is_bit_for_bit_the_simulators(stand_in, shared, device):
    text = """
import numpy as np
from benchmarks.harness import PICTURES, infer, npu_interpreter, picture_inputs
models, device = Path(sys.argv[1]), sys.argv[2]
content = (models / "mobilenet_v1_1.0_224_quant.tflite").read_bytes()
made = [npu_interpreter(content, device=name, unproven="always", cache_dir="off") for name in (device, "simulator")]
for picture in PICTURES[:2]:
    outputs = [infer(one, picture_inputs(one, models / picture)) for one in made]
    print(all(np.array_equal(*pair) for pair in zip(*outputs, strict=True)), outputs[0][0].argmax())
"""
    server = stand_in()
    command = [sys.executable, "-c", "import sys\nfrom pathlib import Path\n" + text, str(shared / "models"), device]
    words = server.run(command, cwd=ROOT).stdout.split()
    assert words[::2] == ["True", "True"]
    assert words[1] != words[3]
    submits = [line for line in server.lines() if " SUBMIT " in line and line.endswith(" = 0")]
    assert len(submits) >= 2


SEVERAL = """
import numpy as np
from pathlib import Path
from delegate.options import parse
from delegate.partition import taken
from delegate.runtime import Session, target_of
from delegate.tflite import read_model

def invoked(session):
    rng = np.random.default_rng(3)
    inputs = [rng.integers(0, 256, p.shape, np.uint8).view(p.dtype) for p in session.program.inputs]
    outputs = [np.zeros(p.shape, p.dtype) for p in session.program.outputs]
    session.invoke(inputs, outputs)
    return outputs

def sessions(device, **more):
    options = parse({"device": device, "unproven": "always", **more}, {})
    graph = read_model(Path(sys.argv[2]))
    return [Session(taken(graph, target_of(options))[0], options) for _ in range(3)]

expected = invoked(sessions("simulator")[0])
found = {}

def work(number, session):
    found[number] = [invoked(session) for _ in range(3)]

ours = sessions(sys.argv[1], cores="3", split="always")
threads = [threading.Thread(target=work, args=item) for item in enumerate(ours)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
equal = [all(np.array_equal(a, b) for a, b in zip(expected, run)) for runs in found.values() for run in runs]
print(sum(equal), "of", len(equal), "on", sys.argv[1], sum(len(s) > 1 for s in ours[0].program.stages) > 3)
for session in ours:
    session.close()
"""


@pytest.mark.parametrize("caches", ["0", "1"])
@pytest.mark.parametrize("device", ["rocket", "rknpu"])
def test_three_interpreters_share_the_cores(stand_in, device, caches):
    """Each is spread over three cores; with caches a forgotten synchronisation between cores would show."""
    server = stand_in(TEFLON_SHIM_CACHES=caches, TEFLON_CACHE_DIR="off", TEFLON_SHIM_TIME_SCALE="1")
    model = ROOT / "models" / "mobilenet_digits.tflite"
    assert server.script(SEVERAL, device, model) == f"9 of 9 on {device} True\n"
    server.settled()
    submits = [line for line in server.lines() if " SUBMIT " in line]
    if device == "rknpu":
        assert any("core_mask=0x7" in line or "core_mask=7" in line for line in submits)
    else:
        assert len({line.split(" SUBMIT ")[0] for line in submits}) == 3


FAULTY = """
from pathlib import Path
import numpy as np
from benchmarks.harness import infer, npu_interpreter, random_inputs

content = Path(sys.argv[2]).read_bytes()
options = {"unproven": "always", "cache_dir": "off"}
plain = npu_interpreter(content, device="simulator", **options)
split = npu_interpreter(content, device=sys.argv[1], cores="3", split="always", **options)
right = 0
for seed in range(12):
    inputs = random_inputs(plain, np.random.default_rng(seed))
    right += all(np.array_equal(a, b) for a, b in zip(infer(plain, inputs), infer(split, inputs), strict=True))
print(right)
"""


@pytest.mark.parametrize("device", ["rocket", "rknpu"])
def test_faults_of_one_of_several_cores_give_no_wrong_results(stand_in, device):
    """Of a split inference some jobs hang, lack a task or are refused: another try, then the CPU, are right."""
    faults = "job:p=0.01=hang; job:p=0.05=skip-task:0; job:p=0.02=skip-task:1; submit:p=0.01=EIO; seed=5"
    server = stand_in(TEFLON_SHIM_FAULTS=faults, TEFLON_SHIM_TIME_SCALE="0.02")
    assert server.script(FAULTY, device, ROOT / "models" / "mobilenet_digits.tflite") == "12\n"
    opens = [line for line in server.lines() if " open(" in line or line.startswith("open(")]
    assert len(opens) > 3  # a device that fails is opened anew
