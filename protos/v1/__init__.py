"""Generated from teacher.proto by `make stubs`; only codec, client and the servicer touch these classes."""
