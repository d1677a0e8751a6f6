//! How a policy's PostgreSQL source is reached.

use pgproof_policies::policy::{Connection, PostgresSource};

use crate::client::ClientTools;
use crate::connection::{ConnectionError, ConnectionSpec, Environment};

/// The server and database that the policy names.
pub fn connection(
    source: &PostgresSource,
    environment: &Environment,
) -> Result<ConnectionSpec, ConnectionError> {
    let password_file = source.password_file.as_deref();
    match &source.connection {
        Connection::Uri(uri) => ConnectionSpec::from_uri(uri, environment, password_file),
        Connection::Service(name) => ConnectionSpec::from_service(name, environment, password_file),
        Connection::Environment => ConnectionSpec::from_environment(environment, password_file),
    }
}

/// The client programs, looked for in the policy's directories first.
pub fn tools(source: &PostgresSource) -> ClientTools {
    ClientTools::new(&source.client_dirs, std::env::var_os("PATH").as_deref())
}
