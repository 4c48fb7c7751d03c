"""Memory of a GPU and a stream for an engine to run on: torch's, or pycuda's. None of this has ever been executed."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from quantfair.quant.deploy.runtimes import DeploymentError

if TYPE_CHECKING:
    from torch import Tensor


_REMEDY = "install it with the CUDA toolkit at hand: pip install pycuda, or take torch's buffers"


class TensorRTMissingError(DeploymentError):
    """A package or a GPU that is not here; the message names it and the remedy."""


class Buffers(Protocol):
    """Memory of the GPU and the stream on which an engine runs."""

    stream: int  # the handle of a CUDA stream that is not the default one

    def active(self) -> AbstractContextManager[None]:
        """Make the GPU's context and the stream those of this thread for a while."""
        ...

    def upload(self, images: "np.ndarray | Tensor", dtype: np.dtype) -> Any:
        """Return memory of the GPU that holds `images`."""
        ...

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """Return memory of the GPU for an output."""
        ...

    def address(self, memory: Any) -> int:
        """Where it starts."""
        ...

    def download(self, memory: Any) -> np.ndarray:
        """Wait for the stream, and return what is in `memory`."""
        ...


class TorchBuffers:
    """torch's allocator, context and a stream of its own. Images may be on the GPU already."""

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self._stream = torch.cuda.Stream()
        self.stream = self._stream.cuda_stream

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the stream wait for what torch's current one has still to do."""
        self._stream.wait_stream(self._torch.cuda.current_stream())
        with self._torch.cuda.stream(self._stream):
            yield

    def upload(self, images: "np.ndarray | Tensor", dtype: np.dtype) -> "Tensor":
        """Copy where the device or the type is another."""
        wanted = self._torch.from_numpy(np.empty(0, dtype)).dtype
        return self._torch.as_tensor(images).to(device="cuda", dtype=wanted).contiguous()

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> "Tensor":
        """An empty tensor."""
        return self._torch.empty(shape, dtype=self._torch.from_numpy(np.empty(0, dtype)).dtype, device="cuda")

    def address(self, memory: "Tensor") -> int:
        """Its data pointer."""
        return memory.data_ptr()

    def download(self, memory: "Tensor") -> np.ndarray:
        """As an array."""
        self._stream.synchronize()
        return memory.cpu().numpy()


class PycudaBuffers:
    """pycuda's memory on the primary context, which torch uses too.

    Never `pycuda.autoinit`: a second context beside torch's lets both hang (NVIDIA/TensorRT issue 4608).
    """

    def __init__(self) -> None:
        try:
            import pycuda.driver as driver  # pyright: ignore[reportMissingImports]
        except (ImportError, OSError) as error:
            raise TensorRTMissingError(f"pycuda cannot be imported ({error}); {_REMEDY}") from error
        import torch

        driver.init()
        self._driver: Any = driver
        self._context = driver.Device(torch.cuda.current_device()).retain_primary_context()
        with self.active():
            self._stream = driver.Stream()
        self.stream: int = self._stream.handle

    @contextmanager
    def active(self) -> Iterator[None]:
        """Push the context, and take it off again."""
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def upload(self, images: "np.ndarray | Tensor", dtype: np.dtype) -> Any:
        """Copy from an array, or a tensor on the CPU, which must live until the stream is done."""
        array = np.ascontiguousarray(images, dtype)
        memory = self._driver.mem_alloc(array.nbytes)
        self._driver.memcpy_htod_async(memory, array, self._stream)
        return memory, array

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """Memory, and the array that it will be copied into."""
        array = np.empty(shape, dtype)
        return self._driver.mem_alloc(array.nbytes), array

    def address(self, memory: Any) -> int:
        """Of the memory on the GPU."""
        return int(memory[0])

    def download(self, memory: Any) -> np.ndarray:
        """Copy, and wait."""
        on_gpu, array = memory
        self._driver.memcpy_dtoh_async(array, on_gpu, self._stream)
        self._stream.synchronize()
        return array
