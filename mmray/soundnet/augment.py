"""How training sounds are varied. Light: the job's command line is made from it."""

from __future__ import annotations

from dataclasses import dataclass

from mmray.errors import UserError


@dataclass(kw_only=True)
class AugmentConfig:
    """How training sounds are varied; what the teachers say stays the same."""

    gain_db: tuple[float, float] = (-6.0, 6.0)
    """Range of the random gain, in dB."""
    mix: float = 0.5
    """Probability of mixing in another clip's sound."""
    mix_snr_db: tuple[float, float] = (5.0, 20.0)
    """Range of how much louder the clip is than what is mixed in, in dB."""
    flip: float = 0.5
    """Probability of turning the sign of the waveform."""

    def check(self) -> None:
        """Raise a `UserError` that names the flag when a value cannot work."""
        for name in ("mix", "flip"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"--{name} {getattr(self, name)}: expected 0 to 1")
        for name in ("gain_db", "mix_snr_db"):
            low, high = getattr(self, name)
            if low > high:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} {low} {high}: expected the lower number first")
