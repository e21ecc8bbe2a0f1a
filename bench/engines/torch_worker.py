"""PyTorch's side of the rows about training, in eager mode, with fused AdamW and its own attention: a
Llama of a Hugging Face config.json, or the net of ../mobilenet_v2.py as `mobilenet_v2-WIDTH-SIZE-BATCH`.
Questions and answers are those of crates/tune/examples/bench_training.rs."""

import json
import resource
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

from mobilenet_v2_stages import STAGES, channels
from nets import answer


class Norm(nn.Module):
    def __init__(self, width, epsilon):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.epsilon)


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, inner = config["hidden_size"], config["intermediate_size"]
        self.heads, self.head = config["num_attention_heads"], config["head_dim"]
        self.kv_heads = config["num_key_value_heads"]
        self.before = Norm(width, config["rms_norm_eps"])
        self.after = Norm(width, config["rms_norm_eps"])

        def linear(a, b):
            return nn.Linear(a, b, bias=False)

        self.q = linear(width, self.heads * self.head)
        self.k = linear(width, self.kv_heads * self.head)
        self.v = linear(width, self.kv_heads * self.head)
        self.o = linear(self.heads * self.head, width)
        self.gate, self.up, self.down = linear(width, inner), linear(width, inner), linear(inner, width)

    def forward(self, x, angles):
        lines, length, _ = x.shape
        h = self.before(x)
        q, k, v = (
            p(h).view(lines, length, heads, self.head).transpose(1, 2)
            for p, heads in ((self.q, self.heads), (self.k, self.kv_heads), (self.v, self.kv_heads))
        )
        q, k = rotate(q, angles), rotate(k, angles)
        grouped = self.heads != self.kv_heads
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        x = x + self.o(y.transpose(1, 2).reshape(lines, length, -1))
        h = self.after(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


def rotate(x, angles):
    cos, sin = angles
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class Llama(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.norm = Norm(config["hidden_size"], config["rms_norm_eps"])

    def forward(self, tokens):
        head = self.config["head_dim"]
        steps = torch.arange(0, head, 2) / head
        angles = torch.arange(tokens.shape[1])[:, None] / self.config["rope_theta"] ** steps
        angles = torch.cat((angles, angles), -1)
        x = self.embedding(tokens)
        angles = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for layer in self.layers:
            x = layer(x, angles)
        return self.norm(x) @ self.embedding.weight.T


def language_model(config, size):
    """The model, its input and its targets, one for each of the logits' lines."""
    lines, context = map(int, size.split("x"))
    with open(config) as file:
        config = json.load(file)
    model = Llama(config)
    nn.init.normal_(model.embedding.weight, std=0.02)
    tokens, targets = torch.randint(config["vocab_size"], (2, lines, context))
    return model, tokens, targets.flatten()


def conv(inputs, outputs, kernel=1, stride=1, groups=1, relu6=True):
    padding = kernel // 2
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU6()] if relu6 else []))


class Block(nn.Module):
    def __init__(self, inputs, outputs, expansion, stride):
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            *([conv(inputs, hidden)] if expansion != 1 else []),
            conv(hidden, hidden, 3, stride, groups=hidden),
            conv(hidden, outputs, relu6=False),
        )

    def forward(self, x):
        y = self.layers(x)
        return x + y if self.residual else y


def net(name, _):
    """The net, images and their classes."""
    _, width, size, batch = name.split("-")
    width, size, batch = float(width), int(size), int(batch)
    count = channels(32, width)
    layers = [conv(3, count, 3, 2)]
    for expansion, outputs, repeats, first_stride in STAGES:
        for r in range(repeats):
            stride = first_stride if r == 0 else 1
            layers.append(Block(count, channels(outputs, width), expansion, stride))
            count = channels(outputs, width)
    layers += [conv(count, 1280), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)]
    return nn.Sequential(*layers), torch.rand(batch, 3, size, size), torch.randint(1000, (batch,))


class Adapted(nn.Module):
    """A frozen product, and one of low rank beside it."""

    def __init__(self, base, rank):
        super().__init__()
        self.base = base
        self.a = nn.Linear(base.in_features, rank, bias=False)
        self.b = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x):
        return self.base(x) + 2.0 * self.b(self.a(x))


def adapt(model, rank):
    """The model in bf16 and frozen, with something of this rank beside each product."""
    model.requires_grad_(False)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, Adapted(child, rank))
    return model.to(torch.bfloat16)


class Training:
    def __init__(self, model, what, choices="*"):
        torch.manual_seed(1)
        make = language_model if model.endswith(".json") else net
        self.model, self.x, self.targets = make(model, what)
        if choices.startswith("lora="):
            self.model = adapt(self.model, int(choices.removeprefix("lora=")))
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(trained, lr=1e-3, fused=True)

    def step(self):
        began = time.perf_counter_ns()
        self.optimiser.zero_grad()
        logits = self.model(self.x)
        loss = F.cross_entropy(logits.flatten(0, -2).float(), self.targets)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        loss.item()
        return time.perf_counter_ns() - began


def main():
    model, threads, *what = sys.argv[1:]
    torch.set_num_threads(int(threads))
    began = time.perf_counter_ns()
    training = Training(model, *what)
    made = time.perf_counter_ns() - began
    answer(made, training.step())
    for question in sys.stdin:
        question = question.strip()
        if question == "memory":
            answer(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        else:
            answer(*(training.step() for _ in range(int(question))))


main()
