"""``python -m sallyport``: the same as the ``sallyport`` command."""

import sys

from sallyport.cli import main

sys.exit(main())
