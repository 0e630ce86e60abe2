//! The flags of server and gateway in one process: the server's, by the rules of our own roles.

use super::{
    Asked, Environment, Failure, Ready,
    layered::{self, Layered, Sources},
    server::{self, Said, Settings},
    server_config::ServerConfig,
    table::{Flag, Slot},
    url::Url,
};

const SOURCES: Sources<'static> = Sources { prefixes: &["FOREBAY_", "ETCD_"], borrowed: &[], file_flag: "config-file" };

/// The table of `forebay up`.
pub fn flags() -> Vec<Flag<Settings>> {
    let mut flags = server::flags();
    let print_config = Flag::new(
        "Member",
        "print-config",
        Slot::Bool(|s: &mut Settings| &mut s.print_config),
        "Print every setting and where it came from, and exit.",
    );
    flags.insert(0, print_config.not_in_file());
    let admin_token = Flag::new(
        "Security",
        "admin-token-file",
        Slot::Text(|s: &mut Settings| &mut s.admin_token_file),
        "File with a secret: who brings it (Authorization: Bearer) may look at the admin pages from everywhere, and nobody else.",
    );
    let security = flags.iter().rposition(|flag| flag.group == "Security").map_or(flags.len(), |last| last + 1);
    flags.insert(security, admin_token);
    flags
}

/// Reads what the operator said. `args` are without the program's and the command's name.
pub fn load(
    args: &[String],
    env: &Environment,
    default_host: Option<String>,
) -> Result<Asked<ServerConfig>, Box<Failure>> {
    let flags = flags();
    let Layered { mut settings, origins, given, mut notices } = layered::load(&flags, &SOURCES, args, env)?;
    if given.help {
        return Ok(Asked::Help);
    }
    if settings.version {
        return Ok(Asked::Version);
    }
    if settings.print_config {
        return Ok(Asked::Print(layered::print(&flags, &mut settings, &origins)));
    }
    let mut given: std::collections::BTreeSet<&'static str> = flags
        .iter()
        .zip(&origins)
        .filter(|(_, origin)| **origin != layered::Origin::Default)
        .map(|(flag, _)| flag.name)
        .collect();
    // etcd would ask for it. Where the address is one that others can use, it is the answer.
    let usable = |url: &Url| url.host().is_none_or(|host| !matches!(host, "0.0.0.0" | "::" | ""));
    if !given.contains("advertise-client-urls") && settings.listen_client_urls.iter().all(usable) {
        settings.advertise_client_urls.clone_from(&settings.listen_client_urls);
        given.insert("advertise-client-urls");
    }
    match server::validate(Said { settings, given, from_file: false, default_host }) {
        Ok((config, more)) => {
            notices.extend(more);
            Ok(Asked::Run(Box::new(Ready { config, notices })))
        }
        Err((kind, problems)) => Err(Box::new(Failure { problems, notices, kind })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(args: &[&str], env: &[(&str, &str)]) -> Asked<ServerConfig> {
        let args: Vec<String> = args.iter().map(|&word| word.to_owned()).collect();
        let env: Vec<_> = env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        super::load(&args, &env, None).unwrap_or_else(|failure| panic!("{args:?} {env:?}: {failure:?}"))
    }

    #[test]
    fn what_is_listened_on_is_advertised_unless_it_is_everything() {
        let Asked::Run(ready) = load(&["--listen-client-urls=http://127.0.0.1:23790"], &[]) else { panic!("runs") };
        assert_eq!(ready.config.advertise_client_urls[0].as_str(), "http://127.0.0.1:23790");
        let everywhere = ["--listen-client-urls=http://0.0.0.0:23790".to_owned()];
        let failure = super::load(&everywhere, &[], None).expect_err("nothing to advertise");
        assert!(failure.problems[0].text.starts_with("--advertise-client-urls is required"));
    }

    #[test]
    fn a_flag_may_stand_beside_its_variable_and_wins() {
        let env = [("ETCD_NAME", "etcds"), ("FOREBAY_NAME", "ours"), ("ETCD_MAX_TXN_OPS", "7")];
        let Asked::Run(ready) = load(&[], &env) else { panic!("runs") };
        assert_eq!((ready.config.name.as_str(), ready.config.max_txn_ops), ("ours", 7));
        let Asked::Run(ready) = load(&["--name=flagged"], &env) else { panic!("runs") };
        assert_eq!(ready.config.name, "flagged");
        let Asked::Print(text) = load(&["--print-config"], &env) else { panic!("prints") };
        let name = text.lines().find(|line| line.starts_with("name: ")).expect("a line");
        assert!(name.starts_with("name: ours ") && name.ends_with("# FOREBAY_NAME"), "{name}");
    }
}
