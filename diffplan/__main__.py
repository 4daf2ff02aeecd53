"""`python -m diffplan`, the same as `diffplan`."""

from diffplan._cli import main

if __name__ == "__main__":
    raise SystemExit(main())
