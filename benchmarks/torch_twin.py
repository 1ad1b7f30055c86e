"""The VAE of `vae_jax` in PyTorch: a yardstick for speed, not a second implementation.

It has the same layers, likelihoods (Bernoulli, mixture of discretised logistics), loss, clipping,
optimisers (Adam and Adamax) and moving average. Activations are channels_last; a bfloat16
configuration runs under autocast. `copy_weights` takes the parameters of a linen model, so that
both can be compared number by number. The JAX step does two things that the twin leaves out, in
torch's favour: it skips updates that are not finite, and it logs the norms of gradient, update and
parameters.
"""

import contextlib
import math
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from ml_collections import ConfigDict
from torch import Tensor, nn

MIN_STD = 1e-4
MIN_LOGISTIC_LOG_SCALE = -7.0
LEVEL_HALF_WIDTH = 1.0 / 255.0
NUM_HEADS = 4
GROUP_NORM_EPSILON = 1e-6  # flax's default; torch's is 1e-5

# First part of a module name in this file: that of the submodule of the linen model.
LINEN_NAMES = {
    "norm": "GroupNorm",
    "conv": "Conv",
    "block": "ResidualBlock",
    "attention": "AttentionBlock",
}


def space_to_depth(x: Tensor, factor: int) -> Tensor:
    """[B, C, H, W] -> [B, C*factor^2, H/factor, W/factor]; channels in the JAX model's order."""
    b, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(b, h // factor, factor, w // factor, factor, c)
    x = x.permute(0, 1, 3, 2, 4, 5).reshape(b, h // factor, w // factor, factor**2 * c)
    return x.permute(0, 3, 1, 2)  # channels_last in memory


def depth_to_space(x: Tensor, factor: int) -> Tensor:
    """[B, C*factor^2, H, W] -> [B, C, H*factor, W*factor]; the inverse of `space_to_depth`."""
    b, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(b, h, w, factor, factor, c // factor**2)
    x = x.permute(0, 1, 3, 2, 4, 5).reshape(b, h * factor, w * factor, c // factor**2)
    return x.permute(0, 3, 1, 2)


def group_norm(width: int) -> nn.GroupNorm:
    fitting = [g for g in (2, 4, 8, 16, 32) if width % g == 0 and width // g >= 4]
    return nn.GroupNorm(max(fitting, default=1), width, eps=GROUP_NORM_EPSILON)


class ResidualBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm_0, self.norm_1 = group_norm(width), group_norm(width)
        self.conv_0 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_1 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv_1.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_0(F.silu(self.norm_0(x)))
        return x + self.conv_1(F.silu(self.norm_1(h)))


class AttentionBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm_0 = group_norm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        tokens = self.norm_0(x).permute(0, 2, 3, 1).reshape(b, h * w, c)
        q, k, v = self.qkv(tokens).view(b, h * w, 3, NUM_HEADS, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h, w, c)
        return x + self.out(attended).permute(0, 3, 1, 2)


def stage(width: int, num_blocks: int, attention: bool) -> nn.Sequential:
    modules = OrderedDict((f"block_{i}", ResidualBlock(width)) for i in range(num_blocks))
    if attention:
        modules["attention_0"] = AttentionBlock(width)
    return nn.Sequential(modules)


def without_autocast(x: Tensor):
    """Keeps the last layers in float32, whatever the dtype of the activations."""
    return torch.autocast(x.device.type, enabled=False)


class Encoder(nn.Module):
    def __init__(self, model: Mapping, image_shape: tuple[int, int, int]):
        super().__init__()
        widths, self.patch_size = model["widths"], model["patch_size"]
        self.is_vector = len(model["latent_shape"]) == 1
        self.stem = nn.Conv2d(image_shape[2] * self.patch_size**2, widths[0], 3, padding=1)
        self.num_stages = len(widths)
        for i, width in enumerate(widths):
            if i > 0:
                self.add_module(f"downsample_{i}", nn.Conv2d(4 * widths[i - 1], width, 1))
            resolution = image_shape[0] // (self.patch_size * 2**i)
            attention = resolution in model["attention_resolutions"]
            self.add_module(f"stage_{i}", stage(width, model["num_blocks"][i], attention))
        self.norm_0 = group_norm(widths[-1])
        factor = self.patch_size * 2 ** (len(widths) - 1)
        num_positions = (image_shape[0] // factor) * (image_shape[1] // factor)
        num_inputs = widths[-1] * (num_positions if self.is_vector else 1)
        self.head = nn.Linear(num_inputs, 2 * model["latent_shape"][-1])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, H, W, C] in [0, 1] -> mean, log_std [B, *latent_shape]."""
        h = self.stem(space_to_depth((2.0 * x - 1.0).permute(0, 3, 1, 2), self.patch_size))
        for i in range(self.num_stages):
            if i > 0:
                h = self.get_submodule(f"downsample_{i}")(space_to_depth(h, 2))
            h = self.get_submodule(f"stage_{i}")(h)
        h = F.silu(self.norm_0(h)).permute(0, 2, 3, 1)
        if self.is_vector:
            h = h.reshape(h.shape[0], -1)
        with without_autocast(h):
            mean, raw_std = self.head(h.float()).chunk(2, dim=-1)
            return mean, torch.log(F.softplus(raw_std) + MIN_STD)


class Decoder(nn.Module):
    def __init__(self, model: Mapping, image_shape: tuple[int, int, int], num_outputs: int):
        super().__init__()
        widths, self.patch_size = model["widths"], model["patch_size"]
        self.num_stages = len(widths)
        factor = self.patch_size * 2 ** (len(widths) - 1)
        self.grid = (image_shape[0] // factor, image_shape[1] // factor, widths[-1])
        self.is_vector = len(model["latent_shape"]) == 1
        if self.is_vector:
            self.stem = nn.Linear(model["latent_shape"][0], math.prod(self.grid))
        else:
            self.stem = nn.Conv2d(model["latent_shape"][-1], widths[-1], 3, padding=1)
        for i, width in enumerate(widths):
            resolution = image_shape[0] // (self.patch_size * 2**i)
            attention = resolution in model["attention_resolutions"]
            self.add_module(f"stage_{i}", stage(width, model["num_blocks"][i], attention))
            if i > 0:
                self.add_module(f"upsample_{i}", nn.Conv2d(width, 4 * widths[i - 1], 1))
        self.norm_0 = group_norm(widths[0])
        self.head = nn.Conv2d(widths[0], num_outputs * self.patch_size**2, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """z [B, *latent_shape] -> parameters of the likelihood [B, H, W, num_outputs]."""
        if self.is_vector:
            h = self.stem(z).view(-1, *self.grid).permute(0, 3, 1, 2)
        else:
            h = self.stem(z.permute(0, 3, 1, 2))
        for i in range(self.num_stages - 1, -1, -1):
            h = self.get_submodule(f"stage_{i}")(h)
            if i > 0:
                h = depth_to_space(self.get_submodule(f"upsample_{i}")(h), 2)
        h = F.silu(self.norm_0(h))
        with without_autocast(h):
            return depth_to_space(self.head(h.float()), self.patch_size).permute(0, 2, 3, 1)


class VAE(nn.Module):
    """Attributes: encoder, decoder; `num_outputs` are the likelihood's parameters per pixel."""

    def __init__(self, model: Mapping, image_shape: tuple[int, int, int], num_outputs: int):
        super().__init__()
        self.encoder = Encoder(model, image_shape)
        self.decoder = Decoder(model, image_shape, num_outputs)
        self.to(memory_format=torch.channels_last)


class Bernoulli:
    def __init__(self, num_channels: int, binarize: bool):
        self.num_outputs, self.binarize = num_channels, binarize

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        return -F.binary_cross_entropy_with_logits(outputs, x, reduction="none").flatten(1).sum(1)


def discretized_logistic_log_prob(x: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    inverse_scale = torch.exp(-log_scale)
    log_below_upper = F.logsigmoid((x + LEVEL_HALF_WIDTH - loc) * inverse_scale)
    log_above_lower = F.logsigmoid((loc - x + LEVEL_HALF_WIDTH) * inverse_scale)
    width = (2.0 * LEVEL_HALF_WIDTH * inverse_scale).clamp_min(1e-37)
    log_mass = log_below_upper + log_above_lower + torch.log(-torch.expm1(-width))
    log_mass = torch.where(x < -1.0 + LEVEL_HALF_WIDTH, log_below_upper, log_mass)
    return torch.where(x > 1.0 - LEVEL_HALF_WIDTH, log_above_lower, log_mass)


class DiscretizedLogisticMixture:
    binarize = False

    def __init__(self, num_channels: int, num_mixtures: int):
        self.num_channels, self.num_mixtures = num_channels, num_mixtures
        num_coefficients = num_channels * (num_channels - 1) // 2
        self.num_outputs = num_mixtures * (1 + 2 * num_channels + num_coefficients)

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        c, k = self.num_channels, self.num_mixtures
        rest = outputs[..., k:].reshape(*outputs.shape[:-1], k, -1)
        loc, log_scale, coefficients = rest.split([c, c, rest.shape[-1] - 2 * c], dim=-1)
        log_scale = MIN_LOGISTIC_LOG_SCALE + F.softplus(log_scale - MIN_LOGISTIC_LOG_SCALE)
        coefficients = torch.tanh(coefficients)
        x = (2.0 * x - 1.0)[..., None, :]
        log_mass = F.log_softmax(outputs[..., :k], dim=-1)
        for i in range(c):
            first = i * (i - 1) // 2
            shift = (coefficients[..., first : first + i] * x[..., :i]).sum(-1)
            log_mass = log_mass + discretized_logistic_log_prob(
                x[..., i], loc[..., i] + shift, log_scale[..., i]
            )
        return torch.logsumexp(log_mass, dim=-1).flatten(1).sum(1)


def create_likelihood(config: ConfigDict, num_channels: int):
    c = config.likelihood
    if c.name == "bernoulli":
        return Bernoulli(num_channels, c.binarize)
    if c.name == "discretized_logistic_mixture":
        return DiscretizedLogisticMixture(num_channels, c.num_mixtures)
    raise ValueError(f"likelihood.name = {c.name!r} has no twin.")


def compute_elbo_terms(vae: VAE, likelihood, x: Tensor, noise: Tensor):
    """Returns (distortion, rate), both [B], at z = mean + std * noise."""
    mean, log_std = vae.encoder(x)
    std = torch.exp(log_std)
    outputs = vae.decoder(mean + std * noise)
    rate = 0.5 * (mean**2 + std**2 - 1.0) - log_std
    return -likelihood.log_prob(outputs, x), rate.flatten(1).sum(1)


def copy_weights(params: Mapping, vae: VAE) -> None:
    """Copies the parameters of a linen model (nested dicts of arrays) into its twin."""
    with torch.no_grad():
        for name, module in vae.named_modules():
            if not isinstance(module, nn.Conv2d | nn.Linear | nn.GroupNorm):
                continue
            source = _linen_parameters(params, name)
            kernel = torch.from_numpy(np.array(source["scale" if "scale" in source else "kernel"]))
            if isinstance(module, nn.Conv2d):
                kernel = (kernel if kernel.ndim == 4 else kernel[None, None]).permute(3, 2, 0, 1)
            elif isinstance(module, nn.Linear):
                kernel = kernel.T
            module.weight.copy_(kernel)
            module.bias.copy_(torch.from_numpy(np.array(source["bias"])))


def _linen_parameters(params: Mapping, name: str) -> Mapping:
    """Returns the parameters of the torch module `name`; attention's head axes are flattened."""
    *parents, last = name.split(".")
    for part in parents:
        params = params[_linen_name(part)]
    if last not in ("qkv", "out"):
        return params[_linen_name(last)]
    attention = params["MultiHeadDotProductAttention_0"]
    if last == "out":
        kernel = np.asarray(attention["out"]["kernel"])
        return {"kernel": kernel.reshape(-1, kernel.shape[-1]), "bias": attention["out"]["bias"]}
    parts = [attention[part] for part in ("query", "key", "value")]
    kernels = [np.asarray(p["kernel"]).reshape(len(p["kernel"]), -1) for p in parts]
    biases = [np.asarray(p["bias"]).reshape(-1) for p in parts]
    return {"kernel": np.concatenate(kernels, axis=1), "bias": np.concatenate(biases)}


def _linen_name(part: str) -> str:
    kind, _, number = part.rpartition("_")
    return f"{LINEN_NAMES[kind]}_{number}" if kind in LINEN_NAMES else part


class Training:
    """A training run of the twin: `step` is one update.

    Attributes:
      vae: the module.
      parameters, averages: its parameters, and their exponential moving average.
    """

    def __init__(
        self,
        config: ConfigDict,
        image_shape: tuple[int, int, int],
        device: str = "cpu",
        compile_mode: str | None = None,
    ):
        """`compile_mode` is the mode of torch.compile; None runs eagerly."""
        self.config, self.device, self.num_steps_done = config, torch.device(device), 0
        self.likelihood = create_likelihood(config, image_shape[-1])
        vae = VAE(config.model, image_shape, self.likelihood.num_outputs)
        self.vae = vae.to(self.device)
        self.parameters = list(self.vae.parameters())
        self.averages = [p.detach().clone() for p in self.parameters]
        self.optimizer = self._create_optimizer()
        self.kl_weight = torch.zeros((), device=self.device)
        self.loss = self._loss
        if compile_mode is not None:
            self.loss = torch.compile(self._loss, mode=compile_mode)

    def _create_optimizer(self) -> torch.optim.Optimizer:
        c = self.config.optim
        options = {"lr": c.learning_rate, "betas": (c.b1, c.b2)}
        if c.name == "adam":
            return torch.optim.Adam(self.parameters, fused=True, **options)
        if c.name == "adamax":
            return torch.optim.Adamax(self.parameters, foreach=True, **options)
        raise ValueError(f"optim.name = {c.name!r} has no twin.")

    def _loss(self, images: Tensor, kl_weight: Tensor) -> Tensor:
        x = images.float() / 255.0
        if self.config.data.flip:
            flip = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
            x = torch.where(flip, x.flip(2), x)
        if self.likelihood.binarize:
            x = torch.bernoulli(x)
        noise = torch.randn(len(x), *self.config.model.latent_shape, device=x.device)
        with self._autocast():
            distortion, rate = compute_elbo_terms(self.vae, self.likelihood, x, noise)
        return distortion.mean() + kl_weight * rate.mean()

    def _autocast(self):
        if self.config.model.dtype == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def learning_rate(self, step: int) -> float:
        """Returns the learning rate: linear warm-up, then a half cosine to final_fraction."""
        c, num_steps = self.config.optim, self.config.train.num_steps
        warmup = min((step + 1) / c.warmup_steps, 1.0) if c.warmup_steps else 1.0
        t = max(step - c.warmup_steps, 0) / max(num_steps - c.warmup_steps, 1)
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(t, 1.0)))
        decay = c.final_fraction + (1.0 - c.final_fraction) * cosine if c.decay == "cosine" else 1.0
        return c.learning_rate * warmup * decay

    def step(self, images: Tensor, indices: Tensor) -> Tensor:
        """Updates on images[indices] (uint8 [N, H, W, C]); returns the loss without a wait."""
        c = self.config.kl
        self.kl_weight.fill_(c.weight * min(self.num_steps_done / max(c.warmup_steps, 1), 1.0))
        loss = self.loss(images[indices], self.kl_weight)
        self.optimizer.zero_grad()
        loss.backward()
        self.update()
        return loss.detach()

    def update(self) -> None:
        """Updates parameters and averages from the gradients that the parameters hold."""
        c, step = self.config.optim, self.num_steps_done
        if c.clip_norm:
            nn.utils.clip_grad_norm_(self.parameters, c.clip_norm, foreach=True)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        self.optimizer.step()
        decay = min(c.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.parameters, 1.0 - decay)
        self.num_steps_done += 1
