"""`fastvit memory`, for those who work in a clone."""

import sys

from fastvit.cli.main import main

if __name__ == "__main__":
    main(["memory", *sys.argv[1:]])
