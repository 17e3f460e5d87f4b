"""``python -m diffusion_adc``: the same as the console script."""

from diffusion_adc.cli import main

raise SystemExit(main())
