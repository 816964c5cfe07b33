package registry

// Migrate lets a test take steps that no released schema needs yet.
var Migrate = migrate
