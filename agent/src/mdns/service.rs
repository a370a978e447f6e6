//! The services that are announced.

use domain::model::AppName;
use domain::zone::AnnouncedApp;
use mdns_sd::ServiceInfo;

use super::MdnsSettings;

/// What a browser looks for.
const HTTP: &str = "_http._tcp.local.";
/// The same of apps that speak TCP: only they know what is spoken there.
const TCP: &str = "_skerry-app._tcp.local.";
/// What a fleet tool looks for.
const SKERRY: &str = "_skerry._tcp.local.";
/// What follows the device id in the name of its host.
const SUFFIX: &str = "-skerry";

/// An app: its host name, its instance of `_http._tcp` or `_skerry-app._tcp`.
pub(super) fn app(
    settings: &MdnsSettings,
    app: &AppName,
    announced: &AnnouncedApp,
) -> Result<ServiceInfo, mdns_sd::Error> {
    let txt = [
        ("app", app.as_str()),
        ("revision", announced.revision.as_str()),
        ("device", settings.device.as_str()),
    ];
    let host = host(app.as_str());
    let port = announced.port.unwrap_or(settings.port);
    ServiceInfo::new(kind(announced), app.as_str(), &host, (), port, &txt[..])
        .map(ServiceInfo::enable_addr_auto)
}

/// The device itself. A host name of its own: the plain one is the system's responder's.
pub(super) fn device(settings: &MdnsSettings) -> Result<ServiceInfo, mdns_sd::Error> {
    let device = settings.device.as_str();
    let room = 63 - SUFFIX.len();
    let label = device.get(..room).unwrap_or(device).trim_end_matches('-');
    let instance = device.get(..63).unwrap_or(device);
    let host = host(&format!("{label}{SUFFIX}"));
    ServiceInfo::new(SKERRY, instance, &host, (), settings.port, &[("device", device)][..])
        .map(ServiceInfo::enable_addr_auto)
}

/// The full name of an app's instance.
pub(super) fn instance(app: &AppName, announced: &AnnouncedApp) -> String {
    format!("{app}.{}", kind(announced))
}

fn kind(announced: &AnnouncedApp) -> &'static str {
    if announced.port.is_some() { TCP } else { HTTP }
}

/// The full name of a host.
pub(super) fn host(label: &str) -> String {
    format!("{label}.local.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mdns;

    #[test]
    fn the_longest_device_id_still_makes_a_host_name() {
        let settings = MdnsSettings { mdns: Mdns::default(), device: "d".repeat(64), port: 80 };
        let service = device(&settings).unwrap();
        let label = service.get_hostname().split('.').next().unwrap().to_owned();
        assert!(label.len() <= 63 && label.ends_with(SUFFIX), "{label}");
        assert!(service.get_fullname().split('.').next().unwrap().len() <= 63);
    }

    #[test]
    fn an_app_has_its_own_host_and_says_its_revision() {
        let settings =
            MdnsSettings { mdns: Mdns::default(), device: "pi-1".to_owned(), port: 8080 };
        let hello: AppName = "hello".parse().unwrap();
        let revision = "hello--0000002".parse().unwrap();
        let announced = AnnouncedApp { revision, port: None };
        let service = app(&settings, &hello, &announced).unwrap();
        assert_eq!(service.get_fullname(), instance(&hello, &announced));
        let raw = AnnouncedApp { port: Some(5432), ..announced };
        let tcp = app(&settings, &hello, &raw).unwrap();
        assert_eq!((tcp.get_fullname(), tcp.get_port()), ("hello._skerry-app._tcp.local.", 5432));
        assert_eq!(tcp.get_fullname(), instance(&hello, &raw));
        assert_eq!((service.get_hostname(), service.get_port()), ("hello.local.", 8080));
        assert_eq!(service.get_property_val_str("revision"), Some("hello--0000002"));
    }
}
