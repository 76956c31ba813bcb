"""A model of how fast inner loops run on CPUs that are not at hand: their instructions, counted in
the disassembly, and LLVM's scheduling models (llvm-mca)."""
