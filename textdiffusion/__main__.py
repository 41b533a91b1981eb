"`python -m textdiffusion`, as launchers call the command"
import sys

from .command import main

sys.exit(main())
