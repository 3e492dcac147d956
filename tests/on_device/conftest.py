import pytest
import tiny_decoders
from place import DEVICE, Place, device


@pytest.fixture(scope="module")
def model():
    return tiny_decoders.build("qwen3 with LoRA")


@pytest.fixture(scope="module")
def on_cpu(model):
    return Place(model, "cpu")


@pytest.fixture(params=[False, True], ids=["dead rows are 0", "dead rows are NaN"])
def on_device(model, request):
    with device.switched_on(request.param):
        yield Place(model, DEVICE)
