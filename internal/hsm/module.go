package hsm

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"unsafe"

	"github.com/miekg/pkcs11"
)

// module is a PKCS #11 library in this process.
type module struct {
	path     string
	reserved string
	ctx      *pkcs11.Ctx
	calls    calls

	// Guarded by modules.Mutex.
	users   int            // Tokens that hold it initialised
	foreign bool           // it had been initialised by somebody else, who finalizes it
	pinned  runtime.Pinner // what pReserved points to

	// logins makes looking at the PIN guard and C_Login one step, so that two
	// Tokens with one wrong PIN do not use up two tries.
	logins sync.Mutex
	// sessions has them opened and closed one at a time. A module that was asked for
	// locking (see initialize) has to do that itself, and tpm2-pkcs11 1.9 does not:
	// two threads that open one at once may get the same.
	sessions sync.Mutex
}

func (m *module) openSession(slot uint, flags uint) (pkcs11.SessionHandle, error) {
	m.sessions.Lock()
	defer m.sessions.Unlock()
	return m.ctx.OpenSession(slot, flags)
}

func (m *module) closeSession(s pkcs11.SessionHandle) error {
	m.sessions.Lock()
	defer m.sessions.Unlock()
	return m.ctx.CloseSession(s)
}

// modules are the libraries loaded so far.
//
// Deviation: a global, because C_Initialize and C_Finalize are per process
// (PKCS #11 v2.40 §5.4): two Tokens on one library must share both.
var modules = struct {
	sync.Mutex
	byPath map[string]*module
}{byPath: map[string]*module{}}

// load returns the library at path, loaded and initialised. Each load is paired
// with a release.
func load(path, reserved string) (*module, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("the PKCS #11 module: %w", err)
	}
	modules.Lock()
	defer modules.Unlock()
	m := modules.byPath[real]
	if m == nil {
		m = &module{path: path}
		if m.ctx, err = dlopen(real); err != nil {
			return nil, fmt.Errorf("loading the PKCS #11 module %s: %w", path, err)
		}
		if m.calls, err = newCalls(m.ctx); err != nil {
			return nil, fmt.Errorf("loading the PKCS #11 module %s: %w", path, err)
		}
		// A library stays loaded for the life of the process: several crash in
		// dlclose, which runs their destructors while their threads still do.
		modules.byPath[real] = m
	}
	if m.users == 0 {
		if err := m.initialize(reserved); err != nil {
			return nil, fmt.Errorf("initialising the PKCS #11 module %s: %w", path, err)
		}
	} else if m.reserved != reserved {
		return nil, fmt.Errorf("the PKCS #11 module %s is in use with other initialisation arguments: one process can have only one set", path)
	}
	m.users++
	return m, nil
}

// initialize calls C_Initialize. The binding asks for locking (CKF_OS_LOCKING_OK).
func (m *module) initialize(reserved string) error {
	var opts []pkcs11.InitializeOption
	if reserved != "" {
		// The module may keep the pointer, so the bytes stay where they are
		// until C_Finalize.
		text := append([]byte(reserved), 0)
		m.pinned.Pin(&text[0])
		opts = append(opts, pkcs11.InitializeWithReserved(unsafe.Pointer(&text[0]))) // #nosec G103 -- pReserved is a pointer by specification
	}
	err := m.ctx.Initialize(opts...)
	m.foreign = errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED))
	if err != nil && !m.foreign {
		m.pinned.Unpin()
		return meaning("C_Initialize", err)
	}
	m.reserved = reserved
	return nil
}

// release gives back what load returned, and finalizes the module after its
// last user.
func (m *module) release() error {
	modules.Lock()
	defer modules.Unlock()
	if m.users--; m.users > 0 || m.foreign {
		return nil
	}
	err := m.ctx.Finalize()
	m.pinned.Unpin()
	if err != nil {
		return meaning("C_Finalize", err)
	}
	return nil
}

// dlopen loads a library.
func dlopen(path string) (*pkcs11.Ctx, error) {
	if ctx := pkcs11.New(path); ctx != nil {
		return ctx, nil
	}
	return nil, Unloadable(path)
}

// Unloadable says why a library was not loaded. The binding loses the loader's
// message, so what is wrong is looked for afterwards.
func Unloadable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	file, err := elf.NewFile(f)
	if err != nil {
		return fmt.Errorf("not a shared library: %w", err)
	}
	symbols, err := file.DynamicSymbols()
	if err != nil {
		return fmt.Errorf("not a shared library: %w", err)
	}
	for _, s := range symbols {
		if s.Name == "C_GetFunctionList" && s.Section != elf.SHN_UNDEF {
			return fmt.Errorf("the system does not load it: another architecture (%s) or a library that it needs is missing (see ldd %s)", file.Machine, path)
		}
	}
	return errors.New("a shared library, but not a PKCS #11 module: it has no C_GetFunctionList")
}
