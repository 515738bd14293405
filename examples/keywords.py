"""Teaches a network words, spoken anew by a synthesiser, in noise. In: options. Out: its accuracy beside a baseline's.

python examples/keywords.py                     a DS-CNN; under two minutes on one core
python examples/keywords.py --network causal    a network that listens while it is spoken to
python examples/keywords.py --voice espeak      English words, where the program espeak-ng is installed
"""

from __future__ import annotations

import io
import itertools
import shutil
import subprocess
import wave
from collections.abc import Callable

import click
import numpy as np
import torch
from lessons import Lesson, Split, accuracy, logistic_regression, macs, majority, taught
from scipy import signal
from torch import Tensor, nn

from separable import models
from separable.nn import Cepstrum, LogMel, Stream

RATE, SECOND = 16_000, 16_000
# Every order of three syllables is a word: the mean spectrum of all six is the same.
SYLLABLES = (("sa", "mi", "tu"), ("ko", "le", "shi"))
WORDS = tuple("".join(order) for syllables in SYLLABLES for order in itertools.permutations(syllables))
ENGLISH = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "seven", "nine")
# Formants of the vowels in hertz, men's means of Peterson and Barney 1952.
FORMANTS = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
# Consonants: the band of noise in hertz and its seconds, or a hum for "m" and "l".
NOISES = {"s": (4500, 7500, 0.09), "sh": (2000, 4500, 0.09), "t": (3000, 7000, 0.025), "k": (1200, 2600, 0.03)}
HUMS = {"m": (250, 1000, 2200), "l": (360, 1300, 2600)}
Voice = Callable[[int, np.random.Generator], np.ndarray]


def spoken(word: int, generator: np.random.Generator) -> np.ndarray:
    """Word number ``word`` by a speaker drawn at random: pitch, length of the throat, and speed."""
    syllables = list(itertools.permutations(SYLLABLES[word // 6]))[word % 6]
    pitch, throat, speed = generator.uniform(90, 230), generator.uniform(0.87, 1.2), generator.uniform(0.85, 1.25)
    parts = []
    for syllable in syllables:
        onset, vowel = syllable[:-1], syllable[-1]
        if onset in NOISES:
            low, high, seconds = NOISES[onset]
            parts.append(_noise(low * throat, min(high * throat, 7900), seconds / speed, generator))
        else:
            parts.append(_voiced(HUMS[onset], pitch, throat, 0.07 / speed, generator) * 0.6)
        pitch *= generator.uniform(0.9, 1.05)
        parts.append(_voiced(FORMANTS[vowel], pitch, throat, generator.uniform(0.12, 0.17) / speed, generator))
    return np.concatenate(parts)


def espeak(word: int, generator: np.random.Generator) -> np.ndarray:
    """An English word as the program espeak-ng says it, with one of its voices, speeds and pitches."""
    voice = f"en+{generator.choice(['m1', 'm2', 'm3', 'm4', 'm5', 'm6', 'm7', 'f1', 'f2', 'f3', 'f4'])}"
    speed, pitch = str(generator.integers(120, 200)), str(generator.integers(20, 80))
    command = ["espeak-ng", "-v", voice, "-s", speed, "-p", pitch, "--stdout", ENGLISH[word]]
    with wave.open(io.BytesIO(subprocess.run(command, check=True, capture_output=True).stdout)) as file:
        rate = file.getframerate()
        sound = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2") / 32768
    return signal.resample_poly(sound, RATE, rate)


def recording(sound: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One second with the sound somewhere in it, in noise of some colour, 0 to 20 dB below it; float32."""
    sound = sound[:SECOND]
    start = generator.integers(SECOND - len(sound) + 1)
    noise = signal.lfilter([1], [1, -generator.uniform(0, 0.95)], generator.normal(size=SECOND))
    decibels = generator.uniform(0, 20)
    noise *= np.sqrt(np.mean(sound**2) / np.mean(noise**2)) * 10 ** (-decibels / 20)
    noise[start : start + len(sound)] += sound
    return (noise * generator.uniform(0.05, 0.5) / np.abs(noise).max()).astype(np.float32)


def draw(count: int, seed: int, voice: Voice = spoken) -> tuple[Tensor, Tensor]:
    """``count`` recordings (count, 16000) and their labels (count,), the same for the same seed."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(len(WORDS), size=count)
    sounds = np.stack([recording(voice(int(label), generator), generator) for label in labels])
    return torch.from_numpy(sounds), torch.from_numpy(labels)


def learn(
    network: str, *, words: int = 3000, test_words: int = 1000, epochs: int = 6, seed: int = 0, voice: Voice = spoken
) -> Lesson:
    """Train on ``words`` recordings and examine on others; the lesson's model takes samples."""
    mel = LogMel(RATE, window=640, hop=320)
    sounds, labels = draw(words, seed, voice)
    test_sounds, test_labels = draw(test_words, seed + 1_000_000, voice)
    energies, test_energies = mel(sounds), mel(test_sounds)
    torch.manual_seed(seed)
    model, standard, features = NETWORKS[network]()
    split = Split(
        inputs=features(energies), labels=labels, test_inputs=features(test_energies), test_labels=test_labels
    )
    trained = taught(model, split, epochs=epochs, seed=seed)
    return Lesson(
        model=nn.Sequential(mel, features, trained),
        network=type(trained).__name__,
        accuracy=accuracy(trained, split.test_inputs, test_labels),
        baselines={
            "one word for all": majority(split),
            "logistic regression on mean and deviation": logistic_regression(
                averages(energies), averages(test_energies), split
            ),
        },
        macs=macs(model, split.inputs),
        standard_macs=macs(standard, split.inputs),
    )


def averages(energies: Tensor) -> Tensor:
    """Mean and deviation of each energy over time: what was heard, but not in which order."""
    return torch.cat([energies.mean(2), energies.std(2)], dim=1)


def streamed(model: nn.Sequential, sounds: Tensor, piece: int) -> float:
    """The largest difference between the causal network's logits of whole sounds and of sounds in pieces."""
    mel, _, spotter = model
    whole = nn.Sequential(mel, spotter.frames)
    stream = Stream(whole)
    with torch.inference_mode():
        heard = torch.cat([stream(part) for part in sounds.split(piece, dim=1)], dim=2)
        return float((heard - whole(sounds)).abs().max())


def _ds_cnn() -> tuple[nn.Module, nn.Module, nn.Module]:
    return models.ds_cnn_small(), models.ds_cnn_small(standard=True), Cepstrum(40, 10)


def _causal() -> tuple[nn.Module, nn.Module, nn.Module]:
    return models.causal_keywords(), models.causal_keywords(standard=True), nn.Identity()


NETWORKS = {"ds_cnn": _ds_cnn, "causal": _causal}


@click.command(help=__doc__.splitlines()[0])
@click.option("--network", type=click.Choice(list(NETWORKS)), default="ds_cnn", show_default=True)
@click.option("--voice", type=click.Choice(["formants", "espeak"]), default="formants", show_default=True)
@click.option("--words", default=3000, show_default=True, help="How many recordings to learn from.")
@click.option("--epochs", default=6, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(network: str, voice: str, words: int, epochs: int, seed: int) -> None:
    if voice == "espeak" and shutil.which("espeak-ng") is None:
        raise click.UsageError("--voice espeak: no program espeak-ng; install it, or take --voice formants")
    lesson = learn(network, words=words, epochs=epochs, seed=seed, voice=espeak if voice == "espeak" else spoken)
    click.echo(lesson)
    if network == "causal":
        sounds, _ = draw(20, seed + 2_000_000)
        click.echo(f"fed in pieces of 37 ms its logits differ by at most {streamed(lesson.model, sounds, 592):.1g}")


def _noise(low: float, high: float, seconds: float, generator: np.random.Generator) -> np.ndarray:
    numerator, denominator = signal.butter(2, (low, high), "bandpass", fs=RATE)
    count = int(seconds * RATE)
    return signal.lfilter(numerator, denominator, generator.normal(size=count)) * np.hanning(count)


def _voiced(
    formants: tuple[int, ...], pitch: float, throat: float, seconds: float, generator: np.random.Generator
) -> np.ndarray:
    """A pulse for each opening of the glottis, through a resonance for each formant (Klatt 1980)."""
    count = int(seconds * RATE)
    phase = np.cumsum(pitch * (1 + 0.02 * generator.normal(size=count)) / RATE)
    sound = np.diff(np.floor(phase), prepend=0.0)
    for formant in formants:
        width, angle = 0.06 * formant + 40, 2 * np.pi * formant * throat / RATE
        radius = np.exp(-np.pi * width / RATE)
        sound = signal.lfilter([1 - radius], [1, -2 * radius * np.cos(angle), radius**2], sound)
    return sound / np.abs(sound).max() * np.hanning(count) ** 0.3


if __name__ == "__main__":
    main()
