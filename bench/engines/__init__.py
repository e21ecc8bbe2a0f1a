"""The engines: how each is started, and its version. Each NAME_worker.py runs one of them, in the
environment of Python packages that NAME.txt lists; ../rust-peers is the program of those in Rust."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
RUST = HERE.parent / "rust-peers"


@dataclass(frozen=True)
class Engine:
    """`program` is what has to be there for it: an environment, or the program of Rust's engines."""

    title: str
    program: str
    package: str

    @property
    def version(self):
        if self.program == RUST.name:
            packages = tomllib.loads((RUST / "Cargo.lock").read_text())["package"]
            return next(p["version"] for p in packages if p["name"] == self.package)
        lines = (HERE / f"{self.program}.txt").read_text().splitlines()
        return next(v for p, _, v in (line.partition("==") for line in lines) if p == self.package)

    def arguments(self, name):
        """What follows the program: a script, or the engine's name."""
        return [name] if self.program == RUST.name else [HERE / f"{self.program}_worker.py"]


ENGINES = {
    "litert": Engine("LiteRT", "litert", "ai-edge-litert"),
    "onnxruntime": Engine("ONNX Runtime", "onnxruntime", "onnxruntime"),
    "openvino": Engine("OpenVINO", "openvino", "openvino"),
    "mnn": Engine("MNN", "mnn", "MNN"),
    "ncnn": Engine("ncnn", "ncnn", "ncnn"),
    "llama": Engine("llama.cpp", "llama", "llama-cpp-python"),
    "torch": Engine("PyTorch", "torch", "torch"),
    "candle": Engine("candle", RUST.name, "candle-core"),
    "rten": Engine("rten", RUST.name, "rten"),
    "tract": Engine("tract", RUST.name, "tract-onnx"),
}
