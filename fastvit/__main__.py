"""`python -m fastvit`, and `torchrun --nproc-per-node 8 -m fastvit train ...`."""

from fastvit.cli.main import main

if __name__ == "__main__":
    main()
