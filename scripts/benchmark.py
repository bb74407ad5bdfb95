"""`fastvit benchmark`, for those who work in a clone."""

import sys

from fastvit.cli.main import main

if __name__ == "__main__":
    main(["benchmark", *sys.argv[1:]])
