"""Makes the folder that training starts from: the new tokenizer and VAE, and an earlier checkpoint's networks where they fit.

    python start.py --from ../models/default --vae work/vae --merges ../models/clip/merges.txt.gz --out work/init

The UNet is the earlier one. The text encoder gets the first `--layers` layers of the earlier one and an embedding row for every
token of the new tokenizer: the earlier row of the same text, a plural's from its singular, or the mean of its pieces' rows.
"""
import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from transformers import CLIPTextModel, CLIPTokenizer

import world


def rows(old: CLIPTokenizer, new: CLIPTokenizer, weight: torch.Tensor) -> torch.Tensor:
    """[entries of `new`, width], from `weight` [entries of `old`, width]."""
    singular = {world.PLURALS[n]: n for n in world.NOUNS}
    known = old.get_vocab()
    out = torch.empty(len(new), weight.shape[1])
    for entry, i in new.get_vocab().items():
        if entry in known:
            out[i] = weight[known[entry]]
            continue
        word = entry.removesuffix("</w>")
        if entry != word:  # a whole word
            pieces = old(singular.get(word, word)).input_ids[1:-1]
        else:
            pieces = [known[c] for c in word if c in known]
        out[i] = weight[pieces].mean(0) if pieces else weight.mean(0)
    return out


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--from", dest="earlier", required=True, help="diffusers folder")
    p.add_argument("--vae", required=True)
    p.add_argument("--merges", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--layers", type=int, default=2)
    a = p.parse_args()
    earlier, out = Path(a.earlier), Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(earlier / "model_index.json", out)
    for part, source in (("scheduler", earlier / "scheduler"), ("unet", earlier / "unet"), ("vae", Path(a.vae))):
        shutil.copytree(source, out / part, dirs_exist_ok=True)
    subprocess.run([sys.executable, str(Path(__file__).parent / "tokenizer.py"), "--merges", a.merges, "--out", str(out / "tokenizer")], check=True)
    old, new = (CLIPTokenizer.from_pretrained(f / "tokenizer") for f in (earlier, out))
    known = CLIPTextModel.from_pretrained(earlier / "text_encoder", dtype=torch.float32).float()
    config = known.config
    config.num_hidden_layers = a.layers
    config.vocab_size = len(new)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = new.bos_token_id, new.eos_token_id, new.pad_token_id
    weights = {k: v for k, v in known.state_dict().items() if not any(f"layers.{i}." in k for i in range(a.layers, 100))}
    table = next(k for k in weights if k.endswith("token_embedding.weight"))
    weights[table] = rows(old, new, weights[table])
    encoder = CLIPTextModel(config)
    encoder.load_state_dict(weights)
    encoder.half().save_pretrained(out / "text_encoder")
    print(f"{len(new)} entries, {a.layers} layers -> {out}")


if __name__ == "__main__":
    main()
