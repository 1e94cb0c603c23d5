"""Every runtime against the network itself, and the contract that the engine relies on."""

import queue
import threading
import warnings

import numpy as np
import pytest
import torch

from brimful.errors import RuntimeFailedError, UsageError
from brimful.models.model import open_model
from brimful.runtimes.debug import DebugFaults, DebugRuntime
from brimful.runtimes.registry import load_runtime
from brimful.runtimes.runtime import OutOfMemoryError, RuntimeOptions
from model_files import opened, outcome_of, outputs_of, saved, scratch
from shared_files import shared

CANVAS = (96, 160)


def traced():
    """Return a TorchScript file of the raw network for CANVAS, with metadata as exporters write."""
    path = scratch() / "yolov8n.torchscript"
    if not path.exists():
        loaded = opened(saved("yolov8n.yaml"))
        facts = '{"task": "detect", "stride": 32, "imgsz": [96, 160], "names": '
        facts += '{"0": "a", "1": "b", "2": "c", "3": "d", "4": "e"}}'
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = torch.jit.trace(loaded.network, torch.zeros(1, 3, *CANVAS), strict=False)
            torch.jit.save(network, str(path), _extra_files={"config.txt": facts})
    return path


RUNTIMES = ("onnxruntime", "openvino", "torch", "torchscript")


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request):
    """Yield each runtime on the same random YOLOv8 network."""
    name = request.param
    path = traced() if name == "torchscript" else saved("yolov8n.yaml")
    loaded = load_runtime(name, open_model(path), RuntimeOptions(max_batch=4, threads=2))
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def network():
    return opened(saved("yolov8n.yaml")).network


def host_frames(count, seed=0, size=CANVAS):
    """Return uint8 images (count, height, width, 3) in BGR."""
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8)


def fill(runtime, slot, images):
    """Write images as the engine's preprocess would, into the front of a slot."""
    if runtime.input_format == "hwc_u8":
        slot.inputs[: len(images)] = images
    else:
        rgb = images[..., ::-1].transpose(0, 3, 1, 2)
        slot.inputs[: len(images)] = rgb.astype(np.float32) / 255


def run(runtime, images, capacity=None):
    slot = runtime.allocate(images.shape[1:3], capacity=capacity or len(images))
    fill(runtime, slot, images)
    return outputs_of(runtime, slot, len(images))


def expected(network, images):
    pixels = images[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255
    with torch.inference_mode():
        out = network(torch.from_numpy(np.ascontiguousarray(pixels)))
    return (out[0] if isinstance(out, tuple) else out).numpy()


def close_to(found, wanted):
    """Compare within fp32 rounding, as a random network amplifies it: 0.01 px of 160 was seen."""
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    return np.allclose(found[:, :4], wanted[:, :4], atol=0.05) and np.allclose(
        found[:, 4:], wanted[:, 4:], atol=1e-3
    )


def test_outputs_are_the_networks(runtime, network):
    for count in (1, 3):
        images = host_frames(count, seed=count)
        (found,) = run(runtime, images)
        assert close_to(found, expected(network, images))
    assert not close_to(found, expected(network, images[..., ::-1]))  # channel order matters


@pytest.mark.parametrize("name", ["openvino", "onnxruntime", "torch"])
@pytest.mark.parametrize(
    ("yaml", "outputs"), [("yolo26n-seg.yaml", 2), ("yolo26n.yaml", 1), ("yolo26n-cls.yaml", 1)]
)
def test_other_layouts(name, yaml, outputs):
    loaded = load_runtime(name, open_model(saved(yaml)), RuntimeOptions(max_batch=2))
    size = (224, 224)
    images = host_frames(2, size=size)
    found = run(loaded, images)
    assert len(found) == outputs
    reference = opened(saved(yaml))
    assert loaded.spec == reference.spec
    wanted = expected(reference.network, images)
    assert found[0].shape == wanted.shape
    scores = wanted[..., 4] if wanted.ndim == 3 else wanted
    assert np.allclose(found[0][..., 4] if wanted.ndim == 3 else found[0], scores, atol=5e-3)
    loaded.close()


def test_any_canvas(runtime, network):
    if runtime.spec.fixed_size:
        pytest.skip("a traced network has one size")
    for size in ((64, 64), (160, 96), (32, 320)):
        images = host_frames(2, size=size)
        (found,) = run(runtime, images)
        assert close_to(found, expected(network, images))


def test_a_partial_batch(runtime, network):
    """The tail of a slot is not the batch's: neither computed into it nor returned as it."""
    images = host_frames(2, seed=5)
    slot = runtime.allocate(CANVAS, capacity=4)
    fill(runtime, slot, host_frames(4, seed=9))
    full = np.array(outputs_of(runtime, slot, 4)[0])
    assert full.shape[0] == 4
    fill(runtime, slot, images)
    slot.inputs[2:] = 255 if slot.inputs.dtype == np.uint8 else np.nan
    (found,) = outputs_of(runtime, slot, 2)
    assert close_to(found, expected(network, images))


def test_a_slot_used_again(runtime, network):
    slot = runtime.allocate(CANVAS, capacity=2)
    for seed in range(4):
        images = host_frames(1 + seed % 2, seed=seed)
        fill(runtime, slot, images)
        (found,) = outputs_of(runtime, slot, len(images))
        assert close_to(found, expected(network, images))


def test_outputs_outlive_other_slots(runtime):
    """Outputs belong to their slot until it is submitted again, whatever runs meanwhile."""
    first, second = (runtime.allocate(CANVAS, capacity=2) for _ in range(2))
    fill(runtime, first, host_frames(2, seed=1))
    fill(runtime, second, host_frames(2, seed=2))
    (kept,) = outputs_of(runtime, first, 2)
    before = kept.copy()
    (other,) = outputs_of(runtime, second, 2)
    fill(runtime, first, host_frames(2, seed=3))  # writing the next batch is no submission
    assert np.array_equal(kept, before)
    assert not np.array_equal(kept, other)


def test_many_in_flight_from_many_threads(runtime, network):
    """Whoever submits, each gets the outputs of its own slot, once."""
    count = 8
    slots = [runtime.allocate(CANVAS, capacity=2) for _ in range(count)]
    batches = [host_frames(1 + i % 2, seed=i) for i in range(count)]
    told = queue.SimpleQueue()
    barrier = threading.Barrier(count)

    def submit(index):
        fill(runtime, slots[index], batches[index])
        barrier.wait()
        for turn in range(3):
            done = threading.Event()

            def finish(outputs, error, seconds=None, turn=turn, done=done):
                copies = None if outputs is None else [np.array(o) for o in outputs]
                told.put((index, turn, copies, error))
                done.set()

            runtime.submit(slots[index], len(batches[index]), finish)
            assert done.wait(120)

    threads = [threading.Thread(target=submit, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results = [told.get_nowait() for _ in range(3 * count)]
    assert told.empty()
    assert len({(index, turn) for index, turn, *_ in results}) == 3 * count
    for index, _, outputs, error in results:
        assert error is None
        assert close_to(outputs[0], expected(network, batches[index]))


def test_an_error_is_told_and_not_raised(runtime):
    """A canvas that the network cannot take fails its own forward; the next one is fine."""
    slot = runtime.allocate(CANVAS, capacity=1)
    good = slot.inputs
    told = []
    done = threading.Event()

    def finish(outputs, error, seconds=None):
        told.append((outputs, error))
        done.set()

    if hasattr(slot, "tensor"):
        slot.tensor = slot.tensor[:, :40]
    elif hasattr(slot, "request"):
        slot.request, request = None, slot.request
    else:
        slot.inputs = slot.inputs[:, :2]
    runtime.submit(slot, 1, finish)
    assert done.wait(60)
    ((outputs, error),) = told
    assert outputs is None
    assert isinstance(error, Exception)
    del good
    images = host_frames(1)
    assert len(run(runtime, images)[0]) == 1
    if hasattr(slot, "request"):
        del request


def test_describe(runtime):
    facts = runtime.describe()
    assert facts["runtime"] == runtime.name
    assert facts["precision"] == "fp32"
    assert facts["threads"] == 2
    assert facts["forwards"] == runtime.concurrency
    assert facts["version"][0].isdigit()


@pytest.mark.parametrize("name", RUNTIMES)
def test_close_ends_the_threads(name):
    before = set(threading.enumerate())
    path = traced() if name == "torchscript" else saved("yolov8n.yaml")
    loaded = load_runtime(name, open_model(path), RuntimeOptions(threads=2))
    started = [t for t in threading.enumerate() if t not in before]
    assert started
    run(loaded, host_frames(1))
    loaded.close()
    assert not [t for t in started if t.is_alive()]


@pytest.mark.parametrize("name", ["openvino", "torch"])
def test_bf16(name):
    """bfloat16 has 8 bits of mantissa: boxes of a trained network stay within 2 % of the canvas."""
    if name == "openvino":
        import openvino

        capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if "BF16" not in capabilities:
            pytest.skip("this CPU computes no bfloat16")
    import cv2

    path = shared("models", "yolov8n-coco.pt")
    photo = cv2.imread(str(shared("photos", "dog.jpg")))
    images = cv2.resize(photo, (320, 256))[None]
    loaded = load_runtime(name, open_model(path), RuntimeOptions(precision="bf16", max_batch=1))
    assert loaded.describe()["precision"] == "bf16"
    (found,) = run(loaded, images)
    loaded.close()
    wanted = expected(opened(path).network, images)
    assert found.dtype == np.float32
    assert not np.array_equal(found, wanted)  # it is not fp32 under another name
    sure = wanted[0, 4:].max(axis=0) > 0.3
    assert sure.sum() > 5
    gap = np.abs(found - wanted)[0][:, sure]
    print(f"boxes {gap[:4].max():.3f} px, scores {gap[4:].max():.4f}")
    assert gap[:4].max() < 6.4
    assert gap[4:].max() < 0.1


# The fake ----------------------------------------------------------------------------------------


def levels(*values, size=(32, 64)):
    images = np.zeros((len(values), *size, 3), np.uint8)
    images[:] = np.array(values, np.uint8)[:, None, None, None]
    return images


def test_debug_reads_the_pixels():
    runtime = DebugRuntime(RuntimeOptions(max_batch=4))
    (rows,) = run(runtime, levels(7, 250, 133), capacity=4)
    assert rows.shape == (3, 1, 6)
    assert rows[:, 0, 5].tolist() == [7, 0, 3]
    assert np.allclose(rows[:, 0, 4], np.array([7, 250, 133]) / 510 + 0.5)
    assert rows[0, 0, :4].tolist() == [16, 8, 48, 24]
    assert runtime.batches == [3]
    assert runtime.describe()["runtime"] == "debug"
    runtime.close()


def test_debug_faults():
    slept = []
    faults = DebugFaults(
        batch_ms=20,
        image_ms=5,
        poison_level=99,
        memory_images=2,
        fail_forwards=frozenset({2}),
    )
    runtime = DebugRuntime(RuntimeOptions(max_batch=4), faults, sleep=slept.append)

    def outcome(*values):
        slot = runtime.allocate((32, 64))
        fill(runtime, slot, levels(*values))
        return outcome_of(runtime, slot, len(values))

    assert not isinstance(outcome(1, 2), BaseException)
    assert slept == [pytest.approx(0.03)]
    assert isinstance(outcome(1), RuntimeFailedError)
    assert not isinstance(outcome(1), BaseException)
    assert isinstance(outcome(1, 2, 3), OutOfMemoryError)
    assert "99" in str(outcome(1, 99))
    assert "99" not in str(outcome(1, 98))
    runtime.close()


def test_debug_hangs_when_told():
    runtime = DebugRuntime(faults=DebugFaults(hang_forward=1), concurrency=2)
    slot = runtime.allocate((32, 64))
    assert outcome_of(runtime, slot, 1, timeout_s=0.05) is None
    assert len(outputs_of(runtime, slot, 1)) == 1


@pytest.mark.parametrize("options", [{"device": "cuda"}, {"precision": "fp16"}])
def test_debug_has_one_device_and_precision(options):
    with pytest.raises(UsageError, match="debug runtime has only"):
        DebugRuntime(RuntimeOptions(**options))
