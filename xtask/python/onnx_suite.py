"""Writes the test suite that the `onnx` package carries into a folder.

    python onnx_suite.py FOLDER

The result is FOLDER/KIND/CASE/model.onnx with test_data_set_N/input_K.pb and output_K.pb, the
layout of ONNX's own suites, for each KIND of node, simple, pytorch-converted, pytorch-operator
and light. Inputs follow the order of the graph's inputs, skipping those that are initializers.
A tolerances.txt in each KIND holds one line `CASE RTOL ATOL` per case.

Node cases are computed when the package's modules are imported; the other kinds are files in the
package. Light models come without inputs: the suite's own runner feeds each the ramp i / n, and
so does this.
"""

import random
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test import loader
from onnx.backend.test.runner import Runner

PACKAGE = Path(loader.DATA_DIR)


def write(path, proto):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(proto.SerializeToString())


def to_proto(value, info):
    """The test value as the proto that its graph input or output declares."""
    if hasattr(value, "SerializeToString"):
        return value
    kind = info.type.WhichOneof("value")
    convert = {
        "tensor_type": numpy_helper.from_array,
        "sequence_type": numpy_helper.from_list,
        "optional_type": numpy_helper.from_optional,
        "map_type": numpy_helper.from_dict,
    }[kind]
    return convert(np.asarray(value) if kind == "tensor_type" else value, info.name)


def write_node_cases(folder):
    cases = loader.load_model_tests(kind="node")
    for case in cases:
        case_dir = folder / case.name
        write(case_dir / "model.onnx", case.model)
        for n, (inputs, outputs) in enumerate(case.data_sets):
            data = case_dir / f"test_data_set_{n}"
            data.mkdir(exist_ok=True)
            for k, (value, info) in enumerate(zip(inputs, case.model.graph.input)):
                write(data / f"input_{k}.pb", to_proto(value, info))
            for k, (value, info) in enumerate(zip(outputs, case.model.graph.output)):
                write(data / f"output_{k}.pb", to_proto(value, info))
    return [(case.name, case.rtol, case.atol) for case in cases]


def copy_file_cases(kind, folder):
    cases = [case for case in loader.load_model_tests(kind=kind) if case.model_dir]
    for case in cases:
        shutil.copytree(case.model_dir, folder / case.name)
    return [(case.name, case.rtol, case.atol) for case in cases]


def write_light_cases(folder):
    # The package lists these under "real", where each names its file in the light folder.
    cases = [c for c in loader.load_model_tests(kind="real") if "/data/light/" in (c.url or "")]
    for case in cases:
        source = PACKAGE / "light" / Path(case.url).name
        model = onnx.load(source)
        case_dir = folder / case.name
        data = case_dir / "test_data_set_0"
        data.mkdir(parents=True)
        shutil.copy(source, case_dir / "model.onnx")
        weights = {w.name for w in model.graph.initializer}
        fed = [i for i in model.graph.input if i.name not in weights]
        for k, info in enumerate(fed):
            ramp = Runner.generate_dummy_data(info)
            write(data / f"input_{k}.pb", numpy_helper.from_array(ramp, info.name))
        for k in range(len(model.graph.output)):
            shutil.copy(source.with_name(f"{source.stem}_output_{k}.pb"), data / f"output_{k}.pb")
    return [(case.name, case.rtol, case.atol) for case in cases]


def main():
    folder = Path(sys.argv[1])
    # The cases overflow and divide by zero on purpose.
    np.seterr(all="ignore")
    # A few cases draw their inputs without seeding.
    random.seed(0)
    np.random.seed(0)
    kinds = {"node": write_node_cases, "light": write_light_cases}
    for kind in ("simple", "pytorch-converted", "pytorch-operator"):
        kinds[kind] = lambda target, kind=kind: copy_file_cases(kind, target)
    for kind, write_cases in kinds.items():
        target = folder / kind
        target.mkdir(parents=True, exist_ok=True)
        cases = sorted(write_cases(target))
        lines = [f"{name} {rtol:g} {atol:g}\n" for name, rtol, atol in cases]
        (target / "tolerances.txt").write_text("".join(lines))
        print(f"{kind}: {len(cases)} cases")


if __name__ == "__main__":
    main()
