import sys

from dualformer.cli import main

sys.exit(main())
