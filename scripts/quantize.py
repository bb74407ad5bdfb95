"""`fastvit quantize`, for those who work in a clone."""

import sys

from fastvit.cli.main import main

if __name__ == "__main__":
    main(["quantize", *sys.argv[1:]])
