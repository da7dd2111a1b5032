"""`python -m loadtests`: see cli.py."""

import sys

if __name__ == "__main__":
    # gevent must replace socket and ssl before any other module has taken them over.
    from gevent import monkey

    monkey.patch_all()

    from loadtests.cli import main

    sys.exit(main(sys.argv[1:]))
