"""`fastvit predict`, for those who work in a clone."""

import sys

from fastvit.cli.main import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])
