"""Our compiler's words against upstream's, register by register; every difference is explained or called wrong."""
