// The smallest kernel there is: dev/hip_targets.sh asks the compiler for which cards it builds it.
__attribute__((global)) void probe() {}
