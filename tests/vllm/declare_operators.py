"""Make torchvision importable next to a build of torch that is not PyPI's.

torchvision's wheel on PyPI loads its compiled operators beside PyPI's torch only. Beside another build, such as one
for CPUs alone, the import stops where a Python rule is registered for an operator that was never declared. vLLM and
transformers need no operator of it, only its functions on tensors, so declaring them is enough. What is written into
this environment does so whenever Python starts, because vLLM starts processes of its own.
"""

import sysconfig
from pathlib import Path

MODULE = """\
import torch

library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""

if __name__ == "__main__":
    packages = Path(sysconfig.get_path("purelib"))
    (packages / "torchvision_operators.py").write_text(MODULE)
    (packages / "torchvision_operators.pth").write_text("import torchvision_operators\n")
    print(f"torchvision's operators do not load beside this torch; they are declared in {packages}")
