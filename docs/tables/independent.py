"""Figures of SmolLM2-135M that programs independent of dipsim measured, on the same text."""

DENSE_OF_KV, DENSE_OF_LAYERS = 14.23, 18.33

KV = {  # (rule, when): perplexity; 128 of 1 024 positions, the second halves of 4 windows
    ("full", "token"): DENSE_OF_KV,
    ("window", "token"): 29.9,
    ("streaming", "token"): 16.51,
    ("h2o", "token"): 16.45,
    ("tova", "token"): 15.93,
    ("tova:heads=kv", "token"): 16.28,
    ("obcache:score=value,recent=64", "token"): 16.55,
    ("obcache:score=key,recent=64", "token"): 16.54,
    ("obcache:score=joint,recent=64", "token"): 16.56,
    ("streaming", "prompt"): 14.99,
    ("h2o", "prompt"): 14.99,
    ("snapkv:window=16,pool=max,kernel=7", "prompt"): 14.89,
    ("snapkv:window=16,pool=none", "prompt"): 14.85,
    ("obcache:score=value,pool=none", "prompt"): 14.84,
    ("obcache:score=key,pool=none", "prompt"): 14.85,
    ("obcache:score=key", "prompt"): 14.91,
    ("obcache:score=joint,pool=none", "prompt"): 14.85,
}
LAYERS = {  # (rule, with factors): perplexity; 4 windows of 512
    ("drop:layers=0", True): DENSE_OF_LAYERS,
    ("drop:layers=1", True): 20.2,
    ("drop:layers=2", True): 22.0,
    ("drop:layers=3", True): 25.6,
    ("drop:layers=6", True): 35.2,
    ("drop:layers=1", False): 20.4,
    ("drop:layers=2", False): 22.3,
    ("drop:layers=3", False): 25.9,
    ("drop:layers=6", False): 39.5,
    ("similarity:by=previous,share=0.05", True): 20.9,
    ("similarity:by=previous,share=0.1", True): 23.8,
    ("similarity:by=previous,share=0.2", True): 35.4,
    ("similarity:by=previous,share=0.3", True): 52.7,
    ("similarity:by=oracle,share=0.05", True): 21.3,
    ("similarity:by=oracle,share=0.1", True): 22.6,
    ("similarity:by=oracle,share=0.2", True): 29.1,
    ("similarity:by=oracle,share=0.3", True): 41.0,
    ("unified:layers=3", True): 23.4,
    ("unified:layers=6", True): 511.0,
}
TOKENS = {
    # schedule: perplexity, share computed in prefill and in the end, revived per step and layer;
    # 128 tokens behind prompts of 512, 3 texts
    "lazy:at=.3/.6/.9,rate=0": (9.96, 1.0, 1.0, 0.0),
    "lazy:at=.3/.6/.9,rate=.3": (10.29, 0.693, 0.984, 1.18),
    "lazy:at=.3/.6/.9,rate=.5": (10.76, 0.539, 0.904, 1.47),
    "lazy:at=.3/.6/.9,rate=.7": (12.46, 0.422, 0.745, 1.30),
    "lazy:at=6,rate=.7": (12.71, 0.442, 0.922, 1.93),
    "lazy:at=15,rate=.7": (10.00, 0.651, 0.978, 1.32),
    "static:at=6,rate=.7": (11.89, 0.442, 0.442, 0.0),
}
NEAR = 0.02
"""Apart by no more than that counts as reproduced."""
