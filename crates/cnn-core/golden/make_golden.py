"""Writes golden/*.json: reference values computed by PyTorch. Run: python golden/make_golden.py

Every file is {"torch": version, "cases": [...]}. Tensors are flat lists of float32 values in NCHW
order; gradients are those of sum(y * dy).

batch_norm.json  name, n, c, hw ([h, w]), eps, x, gamma, beta, dy; y, mean, var (biased), dx, dgamma,
                 dbeta (training mode)
pool.json        op ("max", "avg", "adaptive_avg"), name, n, c, h, w, x, dy, out ([oh, ow]), y, dx;
                 max and avg: kernel, stride, pad ([top, left, bottom, right]), ceil_mode;
                 avg: count_include_pad
activation.json  name, slope, x, dy, y, dx
conv.json        name, n, c_in, h, w, c_out, kernel ([kh, kw]), stride ([sh, sw]), pad ([top, left,
                 bottom, right], zeros via F.pad), dilation ([dh, dw]), groups, out ([oh, ow]);
                 x [n, c_in, h, w], weight [c_out, c_in / groups, kh, kw], bias [c_out],
                 dy [n, c_out, oh, ow]; y, dx, dweight, dbias
"""

import json
import pathlib

import torch
import torch.nn.functional as F

torch.manual_seed(0)
torch.set_num_threads(1)
HERE = pathlib.Path(__file__).parent


def values(*shape):
    """Random values on a grid of 1/64: short in JSON and exact in float32."""
    return torch.round(torch.randn(*shape) * 64) / 64


def flat(t):
    return [float(f"{v:.9g}") for v in t.detach().flatten().tolist()]


def grads(y, inputs):
    dy = values(*y.shape)
    return dy, torch.autograd.grad((y * dy).sum(), inputs)


def write(name, cases):
    text = ",\n".join(json.dumps(case) for case in cases)
    body = f'{{"torch": "{torch.__version__}", "cases": [\n{text}\n]}}\n'
    (HERE / f"{name}.json").write_text(body)


def batch_norm():
    cases = []
    for name, (n, c, h, w), eps, offset in [
        ("small", (2, 3, 2, 3), 1e-5, 0.0),
        ("odd", (3, 2, 5, 1), 1e-3, 1.0),
        ("vector", (4, 3, 1, 1), 1e-5, 0.0),
        ("large mean", (2, 2, 3, 3), 1e-5, 100.0),
    ]:
        x = (values(n, c, h, w) + offset).requires_grad_()
        gamma, beta = values(c).requires_grad_(), values(c).requires_grad_()
        y = F.batch_norm(x, None, None, gamma, beta, training=True, eps=eps)
        dy, (dx, dgamma, dbeta) = grads(y, (x, gamma, beta))
        cases.append(dict(
            name=name, n=n, c=c, hw=[h, w], eps=eps, x=flat(x), gamma=flat(gamma), beta=flat(beta),
            dy=flat(dy), y=flat(y), mean=flat(x.mean((0, 2, 3))),
            var=flat(x.var((0, 2, 3), unbiased=False)), dx=flat(dx), dgamma=flat(dgamma),
            dbeta=flat(dbeta)))
    write("batch_norm", cases)


def pool():
    cases = []

    def add(op, name, x, y, **fields):
        dy, (dx,) = grads(y, (x,))
        n, c, h, w = x.shape
        cases.append(dict(op=op, name=name, n=n, c=c, h=h, w=w, **fields, x=flat(x), dy=flat(dy),
                          out=list(y.shape[2:]), y=flat(y), dx=flat(dx)))

    windows = [  # name, input h and w, kernel, stride, padding, ceil
        ("2x2 s2", (4, 6), (2, 2), (2, 2), (0, 0), False),
        ("2x2 s2 odd", (5, 7), (2, 2), (2, 2), (0, 0), False),
        ("2x2 s2 odd ceil", (5, 7), (2, 2), (2, 2), (0, 0), True),
        ("3x3 s2 p1", (7, 8), (3, 3), (2, 2), (1, 1), False),
        ("3x3 s2 ceil", (6, 7), (3, 3), (2, 2), (0, 0), True),
        ("3x3 s2 p1 ceil", (6, 8), (3, 3), (2, 2), (1, 1), True),
        ("2x2 s3 p1 ceil", (4, 5), (2, 2), (3, 3), (1, 1), True),
        ("3x2 s1x3", (5, 6), (3, 2), (1, 3), (1, 0), False),
        ("5x5 s1 p2", (4, 4), (5, 5), (1, 1), (2, 2), False),
    ]
    for name, (h, w), kernel, stride, (ph, pw), ceil in windows:
        fields = dict(kernel=kernel, stride=stride, pad=[ph, pw, ph, pw], ceil_mode=ceil)
        x = values(1, 2, h, w).requires_grad_()
        y = F.max_pool2d(x, kernel, stride, (ph, pw), ceil_mode=ceil)
        add("max", name, x, y, **fields)
        for include in [True, False]:
            x = values(1, 2, h, w).requires_grad_()
            y = F.avg_pool2d(x, kernel, stride, (ph, pw), ceil, include)
            add("avg", name, x, y, **fields, count_include_pad=include)
    # Equal values: the first maximum gets the gradient.
    x = F.relu(values(1, 2, 6, 6)).detach().requires_grad_()
    add("max", "ties", x, F.max_pool2d(x, 3, 2, 1), kernel=[3, 3], stride=[2, 2], pad=[1] * 4,
        ceil_mode=False)
    for (h, w), out in [((4, 6), (2, 3)), ((5, 7), (3, 2)), ((3, 2), (5, 3)), ((4, 5), (1, 1))]:
        x = values(1, 2, h, w).requires_grad_()
        add("adaptive_avg", f"{h}x{w} to {out[0]}x{out[1]}", x, F.adaptive_avg_pool2d(x, out))
    write("pool", cases)


def activation():
    cases = []
    for name, f in [
        ("relu", F.relu), ("relu6", F.relu6), ("leaky_relu", lambda x: F.leaky_relu(x, 0.125)),
        ("sigmoid", torch.sigmoid), ("hard_sigmoid", F.hardsigmoid), ("hard_swish", F.hardswish),
        ("silu", F.silu),
    ]:
        edges = torch.tensor([-20.0, -6.0, -3.0, -1.0, 0.0, 1.0, 3.0, 6.0, 20.0])
        x = torch.cat([edges, values(12) * 3]).requires_grad_()
        y = f(x)
        dy, (dx,) = grads(y, (x,))
        cases.append(dict(name=name, slope=0.125, x=flat(x), dy=flat(dy), y=flat(y), dx=flat(dx)))
    write("activation", cases)


def conv():
    cases = []
    for name, (n, c_in, h, w), c_out, kernel, stride, pad, dilation, groups in [
        ("3x3 same", (2, 2, 5, 4), 3, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
        ("1x1", (2, 4, 3, 3), 3, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
        ("1x1 stride 2", (1, 3, 5, 4), 2, (1, 1), (2, 2), (0, 0, 0, 0), (1, 1), 1),
        ("3x3 stride 2 asymmetric", (1, 2, 6, 6), 2, (3, 3), (2, 2), (0, 0, 1, 1), (1, 1), 1),
        ("3x2 stride 1x2 asymmetric", (1, 2, 5, 6), 2, (3, 2), (1, 2), (2, 0, 1, 1), (1, 1), 1),
        ("3x3 dilation 2", (1, 2, 6, 7), 2, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2), 1),
        ("3x3 dilation 1x2 stride 2", (1, 1, 6, 7), 2, (3, 3), (2, 2), (1, 2, 0, 1), (1, 2), 1),
        ("groups 2", (1, 4, 4, 4), 6, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 2),
        ("depthwise", (2, 3, 5, 5), 3, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 3),
        ("depthwise stride 2 asymmetric", (1, 3, 6, 5), 3, (3, 3), (2, 2), (0, 1, 1, 0), (1, 1), 3),
        ("depthwise multiplier 2", (1, 2, 5, 5), 4, (5, 5), (2, 2), (2, 2, 2, 2), (1, 1), 2),
    ]:
        x = values(n, c_in, h, w).requires_grad_()
        weight = values(c_out, c_in // groups, *kernel).requires_grad_()
        bias = values(c_out).requires_grad_()
        top, left, bottom, right = pad
        padded = F.pad(x, (left, right, top, bottom))
        y = F.conv2d(padded, weight, bias, stride, 0, dilation, groups)
        dy, (dx, dweight, dbias) = grads(y, (x, weight, bias))
        cases.append(dict(
            name=name, n=n, c_in=c_in, h=h, w=w, c_out=c_out, kernel=kernel, stride=stride, pad=pad,
            dilation=dilation, groups=groups, out=list(y.shape[2:]), x=flat(x), weight=flat(weight),
            bias=flat(bias), dy=flat(dy), y=flat(y), dx=flat(dx), dweight=flat(dweight),
            dbias=flat(dbias)))
    write("conv", cases)


batch_norm()
pool()
activation()
conv()
