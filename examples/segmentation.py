"""Teaches a network which pixels belong to which shape. In: options. Out: its score beside a baseline's, and a picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scenes import CLASSES, draw
from torch import nn

from separable.models import deeplabv3plus, mobilenet_v2
from separable.tune.metrics import MaskScore, confusion, mean_iou

BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """How large the network and its images are, and how long it learns."""

    size: int = 96
    width: float = 0.35
    scenes: int = 1600
    passes: int = 6
    seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Learned:
    """The trained network, its score on scenes that it never saw, and the baselines' on the same."""

    model: nn.Module
    score: MaskScore
    majority: MaskScore
    colours: MaskScore

    def __str__(self) -> str:
        rows = {"background everywhere": self.majority, "colour of each pixel": self.colours, "DeepLabV3+": self.score}
        return "\n".join(f"{name:22} {score}" for name, score in rows.items())


def network(width: float, *, separable: bool = True) -> nn.Module:
    """DeepLabV3+ on a narrow MobileNetV2; the rates suit maps of a few positions."""
    return deeplabv3plus(
        mobilenet_v2(width), CLASSES, output_stride=16, width=64, rates=(1, 2, 3), separable=separable
    )


def learn(lesson: Lesson) -> Learned:
    """Train on drawn scenes, and score on others."""
    train, test = (draw(n, size=lesson.size, seed=lesson.seed + i) for i, n in enumerate((lesson.scenes, 200)))
    torch.manual_seed(lesson.seed)
    model = network(lesson.width)
    import time
    t=time.process_time()
    opt = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=1e-2)
    steps = lesson.passes * (lesson.scenes // BATCH)
    sch = torch.optim.lr_scheduler.OneCycleLR(opt, LR, total_steps=steps, pct_start=.1)
    data = torch.utils.data.TensorDataset(train.images, train.masks)
    for _ in range(lesson.passes):
        for x, y in torch.utils.data.DataLoader(data, BATCH, shuffle=True, drop_last=True):
            loss = F.cross_entropy(model(x), y); opt.zero_grad(); loss.backward(); opt.step(); sch.step()
        print(loss.item(), time.process_time()-t, flush=True)
    model.eval()
    with torch.no_grad(): print(mean_iou(confusion(torch.cat([model(x).argmax(1) for x in test.images.split(50)]), test.masks, CLASSES)), time.process_time()-t)
    torch.save(model.state_dict(), "/tmp/tv/seg.pt")
    return model
import sys

LR=float(sys.argv[1])
learn(Lesson(**{k: type(getattr(Lesson(),k))(v) for k,v in (a.split("=") for a in sys.argv[2:])}))
