// Package worker runs a PKCS #11 module in a process of its own.
//
// Vendors' modules crash, hang, leak and hold the PIN. So keyd starts itself
// again for each token (Serve is that side), and speaks with it over a socket
// pair in whole operations: open this envelope, make this key, never single C
// calls. Token is the daemon's side: it has the methods of hsm.Token and cannot
// be told from one, except that it outlives its module. It starts the process,
// hands it the PIN when it asks for it, kills it when a call hangs, and starts
// another one when it is gone. An operation in flight is lost with the process;
// one that changes nothing is asked again of the next.
//
// No object handle of the module ever leaves its process: on the wire keys have
// names (hsm's handles, PKCS #11 URIs), so that what one process knew cannot be
// taken for what another one knows.
package worker
