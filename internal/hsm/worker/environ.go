package worker

import (
	"slices"
	"strings"
)

// passing are the variables that a worker inherits: where modules look for
// their settings. None of them is a secret, and a name that ends in * stands for
// all that begin so. Others are named in the backend's env.
var passing = []string{
	"HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_RUNTIME_DIR",
	"SOFTHSM2_CONF",                  // SoftHSM
	"NSS_MAX_MP_PBE_ITERATION_COUNT", // NSS softoken
	"P11_KIT_SERVER_ADDRESS",         // p11-kit
	"TPM2_PKCS11_*", "TSS2_LOG",      // tpm2-pkcs11
	"DBUS_SESSION_BUS_ADDRESS",   // and its resource manager, outside a system bus
	"ChrystokiConfigurationPath", // Thales Luna
	"CKNFAST_*", "NFAST_HOME",    // Entrust nShield
	"CS_PKCS11_R2_CFG", "CS_PKCS11_R3_CFG", // Utimaco
	"YUBIHSM_PKCS11_CONF",   // YubiHSM
	"FORTANIX_API_ENDPOINT", // Fortanix
	"KMS_PKCS11_CONFIG",     // Google Cloud KMS
}

// Environment is what a worker gets of all that the daemon has. A crash of the
// module must not print what is in the registers, so Go's traces are off there.
// Nor must a signal write them to memory in the middle of a copy, so Go's
// scheduler sends none: nothing there runs for long but C. And stacks are not
// moved to smaller ones, which leaves the old ones as they were.
func Environment(all, more []string) []string {
	env := []string{"GOTRACEBACK=none", "GODEBUG=asyncpreemptoff=1,gcshrinkstackoff=1"}
	for _, v := range all {
		name, _, _ := strings.Cut(v, "=")
		if slices.ContainsFunc(passing, func(p string) bool {
			prefix, begins := strings.CutSuffix(p, "*")
			return name == p || begins && strings.HasPrefix(name, prefix)
		}) {
			env = append(env, v)
		}
	}
	return append(env, more...)
}
