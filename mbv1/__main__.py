import io
import sys

from .cli import main

if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files are printed as they are, also where they are not of the terminal's encoding.
        sys.stdout.reconfigure(errors="surrogateescape")
    sys.exit(main())
