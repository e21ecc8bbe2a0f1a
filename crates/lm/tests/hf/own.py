"""Models that transformers does not have: SmallThinker (arXiv 2507.20984) and OpenELM (arXiv
2404.14619), as their papers and their published folders have them. Parameters are called what they are
called there."""

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


def part(**parts):
    """A module that only holds others."""
    module = nn.Module()
    for name, inner in parts.items():
        module.add_module(name, inner)
    return module


def rotated(x, base):
    """Rows x [heads, n, size] rotated by their place: element i with element i + size / 2."""
    _, n, size = x.shape
    frequencies = base ** (-torch.arange(0, size, 2) / size)
    angles = torch.arange(n)[:, None] * frequencies
    a, b = x[..., :size // 2], x[..., size // 2:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def attend(q, k, v, window=None):
    """Queries [heads, n, size] over keys and values of as many heads or fewer; a row sees itself and
    those before it, `window` in all. Gives [n, heads × size]."""
    n = q.shape[1]
    k, v = (t.repeat_interleave(len(q) // len(t), 0) for t in (k, v))
    back = torch.arange(n)[:, None] - torch.arange(n)
    seen = (back >= 0) & (back < (window or n))
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)


class Model(nn.Module):
    """What both have in common."""

    def __init__(self, numbers):
        super().__init__()
        self.numbers = SimpleNamespace(**numbers)
        self.config = SimpleNamespace(**numbers)

    def heads(self, x):
        return x.unflatten(-1, (-1, self.numbers.head_dim)).transpose(0, 1)

    def forward(self, ids, use_cache=False):
        x = self.get_input_embeddings()(ids[0])
        for layer, own in enumerate(self.layers()):
            x = self.layer(own, layer, x)
        x = self.last(x)
        return SimpleNamespace(logits=F.linear(x, self.output())[None])


class SmallThinker(Model):
    """The router of experts reads a layer's rows before attention, un-normed."""

    def __init__(self, numbers):
        super().__init__(numbers)
        n = self.numbers
        norm = lambda: nn.RMSNorm(n.hidden_size, n.rms_norm_eps)
        expert = lambda: part(
            up=linear(n.hidden_size, n.moe_ffn_hidden_size),
            gate=linear(n.hidden_size, n.moe_ffn_hidden_size),
            down=linear(n.moe_ffn_hidden_size, n.hidden_size))
        queries, keys = n.num_attention_heads * n.head_dim, n.num_key_value_heads * n.head_dim
        layer = lambda: part(
            input_layernorm=norm(), post_attention_layernorm=norm(),
            self_attn=part(
                q_proj=linear(n.hidden_size, queries), k_proj=linear(n.hidden_size, keys),
                v_proj=linear(n.hidden_size, keys), o_proj=linear(queries, n.hidden_size)),
            block_sparse_moe=part(
                primary_router=linear(n.hidden_size, n.moe_num_primary_experts),
                experts=nn.ModuleList(expert() for _ in range(n.moe_num_primary_experts))))
        self.model = part(
            embed_tokens=nn.Embedding(n.vocab_size, n.hidden_size), norm=norm(),
            layers=nn.ModuleList(layer() for _ in range(n.num_hidden_layers)))
        if not n.tie_word_embeddings:
            self.lm_head = linear(n.hidden_size, n.vocab_size)

    get_input_embeddings = lambda self: self.model.embed_tokens
    layers = lambda self: self.model.layers
    last = lambda self, x: self.model.norm(x)

    def output(self):
        tied = self.numbers.tie_word_embeddings
        return (self.model.embed_tokens if tied else self.lm_head).weight

    def layer(self, own, i, x):
        n, attention = self.numbers, own.self_attn
        normed = own.input_layernorm(x)
        q, k, v = (self.heads(getattr(attention, f"{p}_proj")(normed)) for p in "qkv")
        if n.rope_layout[i]:
            q, k = rotated(q, n.rope_theta), rotated(k, n.rope_theta)
        window = n.sliding_window_size if n.sliding_window_layout[i] else None
        mixed = x + attention.o_proj(attend(q, k, v, window))
        return mixed + self.experts(own.block_sparse_moe, x, own.post_attention_layernorm(mixed))

    def experts(self, own, routed, x):
        n = self.numbers
        best, chosen = own.primary_router(routed).topk(n.moe_num_active_primary_experts)
        if n.moe_primary_router_apply_softmax:
            shares = best.softmax(-1)
        else:
            shares = best.sigmoid() / best.sigmoid().sum(-1, keepdim=True)
        each = torch.stack([e.down(e.up(x) * e.gate(x).relu()) for e in own.experts], 1)
        picked = each.gather(1, chosen[..., None].expand(-1, -1, n.hidden_size))
        return (shares[..., None] * picked).sum(1)


class OpenELM(Model):
    """Layers have numbers of heads and a width of their own."""

    def __init__(self, numbers):
        super().__init__(numbers)
        n = self.numbers
        self.config.tie_word_embeddings = n.share_input_output_layers
        norm = lambda size: nn.RMSNorm(size, 1e-6)

        def layer(queries, keys, multiplier):
            size = n.head_dim
            wide = int(multiplier * n.model_dim + n.ffn_dim_divisor / 2)
            wide = wide // n.ffn_dim_divisor * n.ffn_dim_divisor
            attention = dict(qkv_proj=linear(n.model_dim, (queries + 2 * keys) * size),
                             out_proj=linear(queries * size, n.model_dim))
            if n.normalize_qk_projections:
                attention |= dict(q_norm=norm(size), k_norm=norm(size))
            return part(
                attn=part(**attention), attn_norm=norm(n.model_dim), ffn_norm=norm(n.model_dim),
                ffn=part(proj_1=linear(n.model_dim, 2 * wide), proj_2=linear(wide, n.model_dim)))

        each = zip(n.num_query_heads, n.num_kv_heads, n.ffn_multipliers, strict=True)
        self.transformer = part(
            token_embeddings=nn.Embedding(n.vocab_size, n.model_dim), norm=norm(n.model_dim),
            layers=nn.ModuleList(layer(*numbers) for numbers in each))
        if not n.share_input_output_layers:
            self.lm_head = linear(n.model_dim, n.vocab_size)

    get_input_embeddings = lambda self: self.transformer.token_embeddings
    layers = lambda self: self.transformer.layers
    last = lambda self, x: self.transformer.norm(x)

    def output(self):
        tied = self.numbers.share_input_output_layers
        return (self.transformer.token_embeddings if tied else self.lm_head).weight

    def layer(self, own, i, x):
        n, attention = self.numbers, own.attn
        all_heads = self.heads(attention.qkv_proj(own.attn_norm(x)))
        keys = n.num_kv_heads[i]
        q, k, v = all_heads.split([n.num_query_heads[i], keys, keys])
        if n.normalize_qk_projections:
            q, k = attention.q_norm(q), attention.k_norm(k)
        q, k = rotated(q, n.rope_freq_constant), rotated(k, n.rope_freq_constant)
        x = x + attention.out_proj(attend(q, k, v))
        gate, up = own.ffn.proj_1(own.ffn_norm(x)).chunk(2, -1)
        return x + own.ffn.proj_2(F.silu(gate) * up)
