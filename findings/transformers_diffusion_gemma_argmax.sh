#!/usr/bin/env bash
# transformers 5.23.0: what DiffusionGemma's generate returns was never sampled: it is the most likely token of each
# place in the last prediction. Temperature, entropy bound and the accepted tokens steer the canvas that the network
# sees, but the canvas is thrown away. Where two tokens have probability 0.51 and 0.49 at every place, independently,
# every seed gives a text of the first alone; a sampler would write the second in half of the places. Numbers on
# diversity or temperature of this model speak of argmax texts. (diffusers 0.42.1 returns the canvas instead.)
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 transformers==5.23.0 numpy==2.4.6
cd "$folder"
"$folder/env/bin/python" -I -W ignore - <<'PYTHON'
import torch
from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion, LogitsProcessor, LogitsProcessorList
from transformers.models.diffusion_gemma.configuration_diffusion_gemma import DiffusionGemmaTextConfig

sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
             num_key_value_heads=1, head_dim=16, global_head_dim=16, num_experts=2, top_k_experts=1,
             moe_intermediate_size=16, layer_types=['sliding_attention', 'full_attention'],
             max_position_embeddings=256, sliding_window=64)
text = DiffusionGemmaTextConfig(**sizes).to_dict()
model = DiffusionGemmaForBlockDiffusion(DiffusionGemmaConfig(text_config=text, canvas_length=16)).eval()

class Coin(LogitsProcessor):
    "Token 5 with probability 0.51, token 6 with 0.49, whatever the network says"
    def __call__(self, input_ids, scores):
        coin = torch.full_like(scores, -1e4)
        coin[..., 5], coin[..., 6] = .04, 0.
        return coin

written = []
for seed in range(4):
    torch.manual_seed(seed)
    out = model.generate(torch.tensor([[2, 9, 9]]), max_new_tokens=32, max_denoising_steps=8, t_min=.9, t_max=1.,
                         logits_processor=LogitsProcessorList([Coin()]))
    written.append(out.sequences[0, 3:].tolist())
    print(f'seed {seed}: token 5 in {written[-1].count(5)} places, token 6 in {written[-1].count(6)}')
if any(w != [5]*32 for w in written): raise SystemExit('the behaviour has changed')
PYTHON
