"""Training steps in PyTorch, run on command by `cargo xtask bench-train` (protocol: src/bench_train/worker.rs).

Arguments: network, batch, threads. The networks are those of src/bench_train/networks.rs, as one would write them in PyTorch;
the command checks that the numbers of parameters agree.
"""

import json
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


class LeNet5(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x):
        x = F.max_pool2d(self.conv1(x), 2)
        x = F.max_pool2d(self.conv2(x), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1)), inplace=True))


class Residual(nn.Module):
    """Two 3 x 3 convolutions; the shortcut is subsampled and padded with zero channels (option A)."""

    def __init__(self, channels, out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.stride, self.pad = stride, (out - channels) // 2

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.stride != 1:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(y + x, inplace=True)


class ResNet20(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        blocks, channels = [], 16
        for out, stride in [(16, 1)] * 3 + [(32, 2)] + [(32, 1)] * 2 + [(64, 2)] + [(64, 1)] * 2:
            blocks.append(Residual(channels, out, stride))
            channels = out
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.bn(self.conv(x)), inplace=True)
        return self.fc(self.blocks(x).mean((2, 3)))


def unit(channels, out, kernel, stride, groups):
    return [
        nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    ]


class Separable(nn.Module):
    """A stem and blocks of a depthwise and a pointwise convolution."""

    def __init__(self, stem, stem_stride, blocks):
        super().__init__()
        layers, channels = unit(3, stem, 3, stem_stride, 1), stem
        for out, stride in blocks:
            layers += unit(channels, channels, 3, stride, channels) + unit(channels, out, 1, 1, 1)
            channels = out
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(channels, 10)

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))


def depthwise():
    return Separable(32, 1, [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (256, 1)])


def mobilenet_v1():
    """Width 0.5, for 32 x 32: the stem keeps the resolution."""
    blocks = [(32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2)] + [(256, 1)] * 5 + [(512, 2), (512, 1)]
    return Separable(16, 1, blocks)


NETWORKS = {
    "lenet5": (LeNet5, (1, 28, 28)),
    "resnet20": (ResNet20, (3, 32, 32)),
    "mobilenet_v1": (mobilenet_v1, (3, 32, 32)),
    "depthwise": (depthwise, (3, 32, 32)),
}


def high_water():
    """The largest resident size of this process so far in bytes, or None where the system does not tell."""
    try:
        with open("/proc/self/status") as status:
            line = next(line for line in status if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        return None


def main():
    name, batch, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    net = build()
    images = torch.randn(batch, *shape)
    labels = torch.arange(batch) % 10
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)

    def step():
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()

    def timed():
        start = time.perf_counter()
        step()
        return 1e3 * (time.perf_counter() - start)

    def memory(count):
        try:
            with open("/proc/self/clear_refs", "w") as mark:
                mark.write("5")
        except OSError:
            pass  # not allowed here: the mark stays as it is
        before = high_water()
        for _ in range(count):
            step()
        after = high_water()
        return None if before is None or after is None else after - before

    print(json.dumps({"params": sum(p.numel() for p in net.parameters())}), flush=True)
    for line in sys.stdin:
        command, count = line.split()
        if command == "go":
            step()
            answer = [timed() for _ in range(int(count))]
        elif command == "memory":
            answer = memory(int(count))
        else:
            sys.exit(f"unknown command {command}")
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
