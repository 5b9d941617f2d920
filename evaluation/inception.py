"""The Inception network of FID, from a local file of its weights: pixels → 2,048 features → 1,008 class logits.

The graph of 2015-12-05 that the FID paper used differs from torchvision's Inception-v3 in its pools: the averages leave
the padding out, and the last block takes a maximum. Both kinds of file hold the same weights:

    a state dict with torchvision's names     torch-fidelity's and pytorch-fid's (pt_)inception-2015-12-05-6726825d.pth
    TorchScript, its convolutions in order    StyleGAN2-ADA's inception-2015-12-05.pt, copies without the classifier
"""

import hashlib
import io
import pickle
import warnings
import zipfile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.inception import BasicConv2d, Inception3, InceptionA, InceptionC, InceptionE

from gesso import storage
from gesso.errors import UserError

Floats = npt.NDArray[np.float32]
State = dict[str, Tensor]

FEATURES, CLASSES = 2048, 1008
CLASSIFIER = "fc.weight"
COUNT = "num_batches_tracked"  # of torch's batch norm, of no use here
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
WAY_OUT = "README.md, “Evaluate”, names files of these weights"
# What torch raises for a file that is none of its own, and what a file of another network runs into here.
LOAD_ERRORS = (OSError, RuntimeError, ValueError, KeyError, AttributeError, TypeError, EOFError, pickle.UnpicklingError)


class InceptionMax(InceptionE):
    """The last block, whose pool is a maximum."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        pooled = functional.max_pool2d(x, 3, stride=1, padding=1)
        return [*super()._forward(x)[:3], self.branch_pool(pooled)]


class Network(Inception3):
    """(n, 3, 299, 299) float32 from −1 to 127/128 → (n, 2048)."""

    def __init__(self) -> None:
        super().__init__(CLASSES, aux_logits=False, init_weights=False)
        del self.fc
        self.Mixed_7c = InceptionMax(2048)
        for block in self.children():
            if isinstance(block, InceptionA | InceptionC | InceptionE) and block is not self.Mixed_7c:
                block.branch_pool.register_forward_pre_hook(leave_padding_out)

    def forward(self, x: Tensor) -> Tensor:
        *layers, _dropout = self.children()
        for layer in layers:
            x = layer(x)
        return x.flatten(1)


def leave_padding_out(_module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """The averages over 3×3 pixels of which some were padding, as averages over the others."""
    averages = inputs[0]
    share = functional.avg_pool2d(torch.ones_like(averages[:1, :1]), 3, stride=1, padding=1)
    return averages / share


class Inception:
    """Resized pictures → features. `classifier`: (1008, 2048) or None; `sha256`: of the file."""

    def __init__(self, state: State, sha256: str, device: torch.device) -> None:
        """`state` as `fitted` gives it, without `fc.weight` where the file has no classifier."""
        weight = state.get(CLASSIFIER)
        self.classifier = None if weight is None else weight.double().numpy()
        self.sha256 = sha256
        self._device = device
        network = empty_network()
        network.load_state_dict({name: value for name, value in state.items() if name != CLASSIFIER}, assign=True)
        self._network = network.to(device).eval().requires_grad_(False)

    @torch.inference_mode()
    def features(self, pictures: Floats) -> Floats:
        """(n, 299, 299, 3) from 0 to 255 → (n, 2048), in full float32 on GPUs, too."""
        pixels = torch.from_numpy(pictures).to(self._device).movedim(3, 1)
        with torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False):
            found = self._network((pixels - 128) / 128)
        return np.asarray(found.cpu().numpy())


def open_inception(path: str, device: torch.device) -> Inception:
    """Raises UserError where the file is missing or holds no such weights."""
    try:
        body = storage.read(path)
    except OSError as error:
        raise UserError(f"--inception {path} cannot be read ({error.strerror or error}): {WAY_OUT}") from error
    try:
        state = read_script(body) if is_script(body) else torch.load(io.BytesIO(body), "cpu", weights_only=True)
        fitting = fitted(state)
    except LOAD_ERRORS as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(f"--inception {path} holds no weights of FID's Inception ({reason}): {WAY_OUT}") from error
    return Inception(fitting, hashlib.sha256(body).hexdigest(), device)


def is_script(body: bytes) -> bool:
    """Whether a file of torch is TorchScript, which holds code."""
    if not zipfile.is_zipfile(io.BytesIO(body)):
        return False
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        return any("/code/" in name for name in archive.namelist())


def read_script(body: bytes) -> State:
    """TorchScript's weights by the state dict's names: its convolutions stand in the same order. Its code is not run.

    Beside each `weight` of a convolution are its batch norm's `beta`, `mean` and `var`; the scale is 1.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit.load is deprecated; no other reads these files
        script = torch.jit.load(io.BytesIO(body), "cpu")  # type: ignore[no-untyped-call]
    told = dict(script.named_parameters()) | dict(script.named_buffers())
    paths = [name.removesuffix(".weight") for name, value in told.items() if value.dim() == 4]
    names = [name for name, module in empty_network().named_modules() if isinstance(module, BasicConv2d)]
    state: State = {}
    for name, path in zip(names, paths, strict=True):
        kernel, bias, mean, variance = (told[f"{path}.{part}"] for part in ("weight", "beta", "mean", "var"))
        batch_norm = (torch.ones_like(bias), bias, mean, variance)
        state[f"{name}.conv.weight"] = kernel
        state |= {f"{name}.bn.{part}": value for part, value in zip(BATCH_NORM, batch_norm, strict=True)}
    classifiers = [value for value in told.values() if value.shape == (CLASSES, FEATURES)]
    return {**state, **({CLASSIFIER: classifiers[0]} if classifiers else {})}


def fitted(state: State) -> State:
    """The weights that are used, in float32. Raises KeyError or ValueError where one is missing or of another shape."""
    shapes = {name: value.shape for name, value in empty_network().state_dict().items()}
    if CLASSIFIER in state:
        shapes[CLASSIFIER] = torch.Size((CLASSES, FEATURES))
    counts = {name: torch.zeros((), dtype=torch.long) for name in shapes if name.endswith(COUNT)}
    found = {name: state[name].detach().float() for name in shapes if name not in counts}
    wrong = next((name for name, value in found.items() if value.shape != shapes[name]), None)
    if wrong:
        raise ValueError(f"{wrong} is {tuple(found[wrong].shape)}, not {tuple(shapes[wrong])}")
    return found | counts


def empty_network() -> Network:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return Network()
