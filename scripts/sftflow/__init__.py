"""What the steps share. Standard library only, unless a module says otherwise."""
